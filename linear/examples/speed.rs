//! How fast weights are read, of the speed at which the memory gives bytes to plain sums:
//! `cargo run --release --example speed -- 8192 4096 1,4 1024`, outputs, inputs, numbers of rows, and MiB of weights of
//! each form.
//!
//! Layers go through the product one after the other, so many that they do not fit a last-level cache. What the memory
//! gives drifts on a shared machine: it is read again before every pass, and the shortest times of both are compared.

use std::{env, hint::black_box, time::Instant};

use half::{bf16, f16};
use quest_burn_linear::{
    blocks::BlockFormat,
    native::{Groups, LevelName, Weights, product_at},
};
use rayon::prelude::*;

/// Weights of a group of int8 and int4.
const GROUP: usize = 128;

/// Fewest passes, and how long passes go on.
const PASSES: usize = 3;
const SECONDS: f64 = 2.0;

/// The weights of some layers, all of one form.
struct Layers {
    name: &'static str,
    /// Weights of a layer.
    n_weights: usize,
    count: usize,
    store: Store,
}

enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    Groups {
        bits: usize,
        bytes: Vec<u8>,
        scales: Vec<f32>,
        has_zeros: bool,
    },
    Blocks {
        format: BlockFormat,
        bytes: Vec<u8>,
    },
}

impl Layers {
    /// Layers of `n_weights` weights each, of `total` bytes at least.
    fn new(form: Form, n_weights: usize, total: usize) -> Self {
        let count = total.div_ceil(form.bytes(n_weights));
        let all = count * n_weights;
        let number = |i: usize| (i % 251) as f32 / 251.0;
        let bytes = |n: usize| (0..n).map(|i| (i % 61) as u8).collect::<Vec<_>>();
        let (name, store) = match form {
            Form::F32 => ("F32", Store::F32((0..all).map(number).collect())),
            Form::F16 => {
                let halves = (0..all).map(|i| f16::from_f32(number(i)));
                ("F16", Store::F16(halves.collect()))
            }
            Form::BF16 => {
                let halves = (0..all).map(|i| bf16::from_f32(number(i)));
                ("BF16", Store::BF16(halves.collect()))
            }
            Form::Groups(bits) => {
                let store = Store::Groups {
                    bits,
                    bytes: bytes(all * bits / 8),
                    scales: vec![0.01; all / GROUP],
                    has_zeros: bits == 4,
                };
                (if bits == 4 { "int4" } else { "int8" }, store)
            }
            Form::Blocks(format) => {
                let bytes = bytes(count * form.bytes(n_weights));
                (format.name(), Store::Blocks { format, bytes })
            }
        };
        Self {
            name,
            n_weights,
            count,
            store,
        }
    }

    fn layer(&self, layer: usize) -> Weights<'_> {
        fn part<T>(all: &[T], layer: usize, count: usize) -> &[T] {
            let n = all.len() / count;
            &all[layer * n..][..n]
        }
        match &self.store {
            Store::F32(weights) => Weights::F32(part(weights, layer, self.count)),
            Store::F16(weights) => Weights::F16(part(weights, layer, self.count)),
            Store::BF16(weights) => Weights::BF16(part(weights, layer, self.count)),
            Store::Groups {
                bits,
                bytes,
                scales,
                has_zeros,
            } => {
                let scales = part(scales, layer, self.count);
                Weights::Groups(Groups {
                    bits: *bits,
                    group: GROUP,
                    bytes: part(bytes, layer, self.count),
                    scales,
                    zeros: has_zeros.then_some(scales),
                })
            }
            Store::Blocks { format, bytes } => Weights::Blocks {
                format: *format,
                bytes: part(bytes, layer, self.count),
            },
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    F32,
    F16,
    BF16,
    Groups(usize),
    Blocks(BlockFormat),
}

impl Form {
    fn all() -> Vec<Self> {
        let own = [
            Self::F32,
            Self::F16,
            Self::BF16,
            Self::Groups(8),
            Self::Groups(4),
        ];
        let blocks = BlockFormat::ALL.iter().copied();
        let blocks = blocks.filter(|format| format.is_integers());
        own.into_iter().chain(blocks.map(Self::Blocks)).collect()
    }

    /// Whether rows of so many inputs have such weights.
    fn takes(self, d_input: usize) -> bool {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => true,
            Self::Groups(_) => d_input.is_multiple_of(GROUP),
            Self::Blocks(format) => d_input.is_multiple_of(format.weights_per_block()),
        }
    }

    /// Bytes of so many weights, with the scales and zero points beside them.
    fn bytes(self, n_weights: usize) -> usize {
        match self {
            Self::F32 => n_weights * 4,
            Self::F16 | Self::BF16 => n_weights * 2,
            Self::Groups(8) => n_weights + n_weights / GROUP * 4,
            Self::Groups(bits) => n_weights * bits / 8 + n_weights / GROUP * 8,
            Self::Blocks(format) => {
                n_weights / format.weights_per_block() * format.bytes_per_block()
            }
        }
    }
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// Reads plain words once.
fn read(words: &[u32]) {
    let greatest = words
        .par_chunks(1 << 16)
        .map(|words| words.iter().copied().max());
    black_box(greatest.max());
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
    let total = number(arguments.next(), 1024) << 20;

    let words: Vec<u32> = (0..total / 4).map(|i| i as u32).collect();
    for form in Form::all() {
        if !form.takes(d_input) {
            continue;
        }
        let layers = Layers::new(form, n * d_input, total);
        let bytes = (layers.count * form.bytes(layers.n_weights)) as f64;
        for rows in rows.split(',') {
            let m = number(Some(rows.into()), 1);
            let left: Vec<f32> = (0..m * d_input)
                .map(|i| (i % 101) as f32 / 50.0 - 1.0)
                .collect();
            for level in LevelName::available() {
                let (mut memory, mut shortest) = (f64::MAX, f64::MAX);
                let begin = Instant::now();
                let mut passes = 0;
                while passes < PASSES || begin.elapsed().as_secs_f64() < SECONDS {
                    memory = memory.min(seconds(|| read(&words)));
                    let pass = seconds(|| {
                        for layer in 0..layers.count {
                            black_box(product_at(level, &left, d_input, layers.layer(layer)));
                        }
                    });
                    shortest = shortest.min(pass);
                    passes += 1;
                }
                let given = (words.len() * 4) as f64 / memory / 1e9;
                let speed = bytes / shortest / 1e9;
                let per_layer = shortest / layers.count as f64;
                println!(
                    "{level}, {m} rows, {}: {:.3} ms a layer, {speed:.1} of {given:.1} GB/s ({:.0} %), {:.1} G \
                     products/s",
                    layers.name,
                    per_layer * 1e3,
                    100.0 * speed / given,
                    (layers.n_weights * m) as f64 / per_layer / 1e9
                );
            }
        }
    }
}
