//! How fast a row is multiplied with the channels that matter: `cargo run --release --example channels -- 3072 576`,
//! outputs and inputs. Layers are read in turn, so that none of them is in the cache.

use std::{env, hint::black_box, time::Instant};

use half::{bf16, f16};
use quest_burn_linear::native::{ActiveChannel, Channels, Weights, add_channels, product};

/// Bytes of all layers: more than caches hold.
const BYTES: usize = 400 << 20;

/// The shortest time of a call, each with the next of `n` layers, within half a second.
fn seconds(n: usize, mut run: impl FnMut(usize)) -> f64 {
    let (begin, mut shortest) = (Instant::now(), f64::MAX);
    while begin.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        (0..n).for_each(&mut run);
        shortest = shortest.min(start.elapsed().as_secs_f64() / n as f64);
    }
    shortest
}

fn main() {
    let mut arguments = env::args()
        .skip(1)
        .map(|text| text.parse().expect("a number"));
    let n: usize = arguments.next().unwrap_or(3072);
    let d_input: usize = arguments.next().unwrap_or(576);
    let size = n * d_input;
    let layers = BYTES / (4 * size);
    let floats: Vec<f32> = (0..size * layers)
        .map(|i| (i % 251) as f32 / 251.0)
        .collect();
    let halves: Vec<f16> = floats.iter().map(|&x| f16::from_f32(x)).collect();
    let brains: Vec<bf16> = floats.iter().map(|&x| bf16::from_f32(x)).collect();
    let bytes: Vec<u8> = (0..size * layers).map(|i| (i % 251) as u8).collect();
    let scales = vec![0.01_f32; size / 64];
    let row: Vec<f32> = (0..d_input)
        .map(|i| (i % 101) as f32 / 50.0 - 1.0)
        .collect();
    // Without a pattern that a processor foresees.
    let hash = |i: usize| (i as u32).wrapping_mul(0x9e37_79b1) >> 16;

    for (name, form) in ["f32", "f16", "bf16", "int8"].into_iter().zip(0..) {
        let layer = |i: usize| i * size..(i + 1) * size;
        let dense = |i| match form {
            0 => Some(Weights::F32(&floats[layer(i)])),
            1 => Some(Weights::F16(&halves[layer(i)])),
            2 => Some(Weights::BF16(&brains[layer(i)])),
            _ => None,
        };
        if dense(0).is_some() {
            let time = seconds(layers, |i| {
                black_box(dense(i).map(|weights| product(&row, d_input, weights)));
            });
            println!("{name}, by outputs: {:.1} us", time * 1e6);
        }
        for percent in [100, 75, 50, 30] {
            let active = (0..d_input).filter(|&i| hash(i) % 100 < percent);
            let active: Vec<_> = active
                .map(|channel| ActiveChannel {
                    channel,
                    value: row[channel],
                })
                .collect();
            let time = seconds(layers, |i| {
                let weights = match form {
                    0 => Channels::F32(&floats[layer(i)]),
                    1 => Channels::F16(&halves[layer(i)]),
                    2 => Channels::BF16(&brains[layer(i)]),
                    _ => Channels::Int8 {
                        bytes: &bytes[layer(i)],
                        group: 64,
                        scales: &scales,
                    },
                };
                let mut output = vec![0.0; n];
                add_channels(&active, weights, &mut output);
                black_box(output);
            });
            let share = 100.0 * active.len() as f64 / d_input as f64;
            println!("{name}, {share:.0} % of the channels: {:.1} us", time * 1e6);
        }
    }
}
