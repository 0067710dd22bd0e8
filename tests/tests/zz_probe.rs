use burn::tensor::{DType, Tensor, Distribution};
use quest_burn_tests::{arrays::{random, values, relative_error}, devices::devices, fixtures, loaded::Loaded};
use rand::{SeedableRng, rngs::StdRng};

#[test]
fn dense() {
    for fixture in fixtures::all() {
        for device in devices() {
            let loaded = Loaded::new(&fixture.dir, &device.device, DType::F32);
            for _ in 0..2 {
                let found = loaded.dense_nlls(&fixture.golden.ids);
                let e = found.iter().zip(&fixture.golden.dense_nll).map(|(&f, &e)| relative_error(f, e)).collect::<Vec<_>>();
                println!("{} max {:.1e} bad {:?}", fixture.name, e.iter().copied().fold(0.0, f64::max), e.iter().enumerate().filter(|x| *x.1 > 1e-4).map(|x| x.0).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn matmuls() {
    let mut rng = StdRng::seed_from_u64(1);
    for device in devices() {
        for (b, m, k, n) in [(1, 128, 64, 172), (1, 128, 172, 64), (1, 15, 64, 64), (1, 128, 64, 512), (1, 15, 64, 512), (1, 1, 64, 512), (1, 1, 172, 64), (4, 256, 8, 128), (4, 256, 128, 8), (4,256,8,400),(4,256,400,8),(4, 30, 8, 399), (4, 30, 399, 8), (1, 128, 344, 128), (1, 128, 128, 320)] {
            let a: Tensor<3> = random([b, m, k], &device.device, &mut rng);
            let c: Tensor<3> = random([b, k, n], &device.device, &mut rng);
            let (av, cv) = (values(&a), values(&c));
            for rep in 0..2 {
            let o = values(&a.clone().matmul(c.clone()));
            let ct = c.clone().swap_dims(1, 2);
            let ct: Tensor<3> = Tensor::from_data(ct.into_data(), &device.device);
            let ot = values(&a.clone().matmul(ct.transpose()));
            let mut worst = (0.0f64, 0); let mut worstt = 0.0f64;
            for bi in 0..b { for i in 0..m { for j in 0..n {
                let e: f64 = (0..k).map(|x| f64::from(av[(bi * m + i) * k + x]) * f64::from(cv[(bi * k + x) * n + j])).sum();
                let at = (bi * m + i) * n + j;
                let err = (f64::from(o[at]) - e).abs();
                if !(err <= worst.0) { worst = (err, at); }
                worstt = worstt.max((f64::from(ot[at]) - e).abs());
            }}}
            println!("{device} rep {rep} [{b},{m},{k}]x[{k},{n}]: worst {:.1e}, transposed {:.1e}", worst.0, worstt);
            }
        }
    }
}
