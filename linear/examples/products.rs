//! Times of matrix products of many rows on a GPU, by every kernel that it has for them:
//! `cargo run --release --example products --features cuda -- --json f16,bf16 8192,2048,512,128`, dtypes and numbers of
//! rows; by default `f16` and these.
//!
//! A line for each shape and kernel: TFLOP/s, the median of rounds, and how far the result is from that of cubek's
//! kernels. Kernels take turns, so that all of them see the same clocks. The first of a shape's is the one that is
//! taken there; `mma` has the tiles that shapes decide, and after it come all sizes of them.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use quest_burn_linear::kernels::{MatmulKernel, matmul_kernels, matmul_rows_by};

/// Outputs and channels of the layers of a 7B model.
const LAYERS: [[usize; 2]; 4] = [[12_288, 4096], [4096, 4096], [22_016, 4096], [4096, 11_008]];
/// Rounds, of which the median is taken.
const ROUNDS: usize = 7;
/// Seconds of a round of a kernel, and of the products before the first one, which raise the clocks.
const ROUND: f64 = 0.02;
const WARM_UP: f64 = 0.3;
/// Most products of a round, each of which has an output of its own.
const MOST_PRODUCTS: f64 = 200.0;

fn main() {
    let (flags, arguments): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let json = match flags.as_slice() {
        [] => false,
        [flag] if flag == "--json" => true,
        _ => panic!("options: expected --json, found {flags:?}"),
    };
    let mut arguments = arguments.into_iter();
    let dtypes = arguments.next().unwrap_or_else(|| "f16".to_owned());
    let rows = arguments.next();
    let rows = rows.unwrap_or_else(|| "8192,2048,512,128".to_owned());
    let device = Device::default();
    for name in dtypes.split(',') {
        let dtype = match name {
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            _ => panic!("dtypes: expected f16 or bf16, found {name}"),
        };
        for m in rows.split(',') {
            let m = m.parse::<usize>().expect("a number of rows");
            for [n, k] in LAYERS {
                for measured in measure(&device, dtype, m, [n, k]) {
                    print(&measured, name, [m, n, k], json);
                }
            }
        }
    }
}

/// What is known of a kernel at a shape.
struct Measured {
    kernel: MatmulKernel,
    /// Microseconds of a product.
    us: f64,
    /// The distance to the result of cubek's kernels over the size of that.
    distance: f64,
}

fn print(measured: &Measured, dtype: &str, [m, n, k]: [usize; 3], json: bool) {
    let Measured {
        kernel,
        us,
        distance,
    } = measured;
    let tflops = 2.0 * m as f64 * n as f64 * k as f64 / us / 1e6;
    if json {
        println!(
            "{{\"dtype\":\"{dtype}\",\"rows\":{m},\"outputs\":{n},\"channels\":{k},\"kernel\":\"{kernel}\",\
             \"median_us\":{us:.2},\"tflop_per_s\":{tflops:.1},\"distance\":{distance:.1e}}}"
        );
    } else {
        println!(
            "{dtype:>4} {m:>5} rows, {n:>5} outputs, {k:>5} channels, {:<16}{us:>9.1} us {tflops:>7.1} TFLOP/s, \
             off by {distance:.1e}",
            kernel.to_string()
        );
    }
}

/// Every kernel at a shape.
fn measure(device: &Device, dtype: DType, m: usize, [n, k]: [usize; 2]) -> Vec<Measured> {
    let rows = random([m, k], device, dtype);
    let weight = random([n, k], device, dtype);
    let product = |kernel| matmul_rows_by(kernel, rows.clone(), weight.clone());
    let round = |kernel, products: usize| {
        let start = Instant::now();
        // Held until all are computed: what nobody holds need not be.
        let outputs = (0..products).map(|_| product(kernel)).collect::<Vec<_>>();
        device.sync().expect("the device computes");
        let seconds = start.elapsed().as_secs_f64() / products as f64;
        drop(outputs);
        seconds
    };
    let expected = product(MatmulKernel::Cubek);
    let mut kernels: Vec<_> = matmul_kernels(device, dtype, [n, k])
        .into_iter()
        .map(|kernel| {
            let distance = distance(product(kernel), expected.clone());
            // The first round of a kernel takes its compilation, and the second one its memory.
            round(kernel, 2);
            let products = (ROUND / round(kernel, 3)).clamp(3.0, MOST_PRODUCTS);
            (kernel, products as usize, distance, vec![])
        })
        .collect();
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < WARM_UP {
        for (kernel, products, ..) in &kernels {
            round(*kernel, *products);
        }
    }
    for _ in 0..ROUNDS {
        for (kernel, products, _, seconds) in &mut kernels {
            seconds.push(round(*kernel, *products));
        }
    }
    let measured = kernels
        .into_iter()
        .map(|(kernel, _, distance, mut seconds)| {
            seconds.sort_by(f64::total_cmp);
            Measured {
                kernel,
                us: seconds[ROUNDS / 2] * 1e6,
                distance,
            }
        });
    measured.collect()
}

/// Numbers from the normal distribution.
fn random(shape: [usize; 2], device: &Device, dtype: DType) -> Tensor<2> {
    Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), (device, DType::F32)).cast(dtype)
}

/// The distance of two results over the size of the second; on the device, as they may be large.
fn distance(found: Tensor<2>, expected: Tensor<2>) -> f64 {
    let [found, expected] = [found, expected].map(|result| result.cast(DType::F32));
    let [apart, size] = [found - expected.clone(), expected].map(|values| {
        let sum = (values.clone() * values).sum();
        f64::from(sum.into_scalar::<f32>())
    });
    (apart / size).sqrt()
}
