//! How fast the weights of one layer are read: `cargo run --release --example speed -- 8192 4096 1,4`, outputs,
//! inputs and numbers of rows. The first line is what the memory gives to plain sums.

use std::{env, hint::black_box, time::Instant};

use half::{bf16, f16};
use quest_burn_linear::{
    blocks::BlockFormat,
    native::{Groups, LevelName, MANY_ROWS, Weights, product, product_at},
};
use rayon::prelude::*;

/// The shortest of the times that `run` takes within half a second.
fn seconds(mut run: impl FnMut()) -> f64 {
    run();
    let (begin, mut shortest) = (Instant::now(), f64::MAX);
    while begin.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        run();
        shortest = shortest.min(start.elapsed().as_secs_f64());
    }
    shortest
}

fn number(argument: Option<String>, default: usize) -> usize {
    let parse = |text: String| text.parse().expect("a number");
    argument.map_or(default, parse)
}

fn main() {
    let mut arguments = env::args().skip(1);
    let n = number(arguments.next(), 8192);
    let d_input = number(arguments.next(), 4096);
    let rows = arguments.next().unwrap_or_else(|| "1".into());

    let n_weights = n * d_input;
    let floats: Vec<f32> = (0..n_weights).map(|i| (i % 251) as f32 / 251.0).collect();
    let time = seconds(|| {
        let sums = floats
            .par_chunks(1 << 16)
            .map(|x| x.iter().map(|x| x.to_bits()).max());
        black_box(sums.max());
    });
    println!("memory: {:.1} GB/s", n_weights as f64 * 4.0 / time / 1e9);

    let halves: Vec<f16> = floats.iter().map(|&x| f16::from_f32(x)).collect();
    let brains: Vec<bf16> = floats.iter().map(|&x| bf16::from_f32(x)).collect();
    let bytes: Vec<u8> = (0..n_weights * 2).map(|i| (i % 61) as u8).collect();
    let scales = vec![0.01; n_weights / 128];
    let mut layers = vec![
        ("F32", Weights::F32(&floats), 32.0),
        ("F16", Weights::F16(&halves), 16.0),
        ("BF16", Weights::BF16(&brains), 16.0),
    ];
    for (name, bits, zeros) in [("int8", 8, None), ("int4", 4, Some(&scales[..]))] {
        let groups = Groups {
            bits,
            group: 128,
            bytes: &bytes[..n_weights * bits / 8],
            scales: &scales,
            zeros,
        };
        layers.push((name, Weights::Groups(groups), bits as f64 + 0.25));
    }
    for &format in BlockFormat::ALL {
        if let Ok(size) = format.row_bytes(n_weights)
            && format.is_integers()
        {
            let bytes = &bytes[..size];
            let bits = size as f64 * 8.0 / n_weights as f64;
            layers.push((format.name(), Weights::Blocks { format, bytes }, bits));
        }
    }
    for rows in rows.split(',') {
        let m = number(Some(rows.into()), 1);
        let left: Vec<f32> = (0..m * d_input)
            .map(|i| (i % 101) as f32 / 50.0 - 1.0)
            .collect();
        for level in LevelName::available() {
            for (name, weights, bits) in layers.iter().filter(|(_, w, _)| w.takes(d_input)) {
                let time = seconds(|| {
                    black_box(if m < MANY_ROWS {
                        product_at(level, &left, d_input, *weights)
                    } else {
                        product(&left, d_input, *weights)
                    });
                });
                let speed = n_weights as f64 * bits / 8.0 / time / 1e9;
                let products = (n_weights * m) as f64 / time / 1e9;
                println!(
                    "{level}, {m} rows, {name}: {:.3} ms, {speed:.1} GB/s, {products:.1} G products/s",
                    time * 1e3
                );
            }
        }
    }
}
