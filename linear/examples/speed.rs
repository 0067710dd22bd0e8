//! Bytes of weights per second of products with one row, beside what the memory gives.
use quest_burn_linear::{
    blocks::BlockFormat,
    native::{Groups, LevelName, Weights, product, product_at},
};
use rayon::prelude::*;
use std::time::Instant;

fn best(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::MAX;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.5 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}
fn main() {
    let (n, d): (usize, usize) = std::env::args()
        .nth(1)
        .map(|a| {
            let (n, d) = a.split_once('x').unwrap();
            (n.parse().unwrap(), d.parse().unwrap())
        })
        .unwrap_or((16384, 4096));
    let ms: Vec<usize> = std::env::args()
        .nth(2)
        .map(|a| a.split(',').map(|x| x.parse().unwrap()).collect())
        .unwrap_or(vec![1]);
    let mut bytes = vec![0u8; n * d * 4];
    let mut x = 0x1234_5678_9abcu64;
    for b in bytes.chunks_exact_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b.copy_from_slice(&(x & 0x3fff_3fff_3fff_3fff).to_le_bytes());
    }
    let words: &[u64] = unsafe { bytes.align_to::<u64>().1 };
    let t = best(|| {
        let s: u64 = words
            .par_chunks(1 << 16)
            .map(|c| c.iter().fold(0u64, |a, b| a.wrapping_add(*b)))
            .sum();
        std::hint::black_box(s);
    });
    println!("read {:.1} GB/s", (n * d * 4) as f64 / t / 1e9);
    for m in ms {
        let rows: Vec<f32> = (0..m * d)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
            .collect();
        for level in LevelName::available() {
            let run = |name: &str, w: Weights, size: usize| {
                let t = best(|| {
                    std::hint::black_box(if m < 9 {
                        product_at(level, &rows, d, w)
                    } else {
                        product(&rows, d, w)
                    });
                });
                println!(
                    "m {m} {level} {name}: {:.3} ms {:.1} GB/s {:.1} GMAC/s",
                    t * 1e3,
                    size as f64 / t / 1e9,
                    (n * d * m) as f64 / t / 1e9
                );
            };
            run(
                "f32",
                Weights::F32(unsafe { bytes.align_to().1 }),
                n * d * 4,
            );
            run(
                "f16",
                Weights::F16(unsafe { bytes[..n * d * 2].align_to().1 }),
                n * d * 2,
            );
            run(
                "bf16",
                Weights::BF16(unsafe { bytes[..n * d * 2].align_to().1 }),
                n * d * 2,
            );
            for &format in BlockFormat::ALL {
                if format.is_integers() && d.is_multiple_of(format.weights_per_block()) {
                    let b = n * format.row_bytes(d).unwrap();
                    run(
                        format.name(),
                        Weights::Blocks {
                            format,
                            bytes: &bytes[..b],
                        },
                        b,
                    );
                }
            }
            let scales = vec![0.01f32; n * d / 64];
            for bits in [4, 8] {
                for z in [None, Some(&scales[..])] {
                    run(
                        &format!("int{bits} {}", z.is_some()),
                        Weights::Groups(Groups {
                            bits,
                            group: 64,
                            bytes: &bytes[..n * d * bits / 8],
                            scales: &scales,
                            zeros: z,
                        }),
                        n * d * bits / 8 + scales.len() * 4,
                    );
                }
            }
        }
    }
}
