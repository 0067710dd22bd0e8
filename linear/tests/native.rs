//! Products by native code against the same in 64 bits, at every level of vector instructions that the
//! processor has.

use half::{bf16, f16};
use quest_burn_linear::{
    blocks::BlockFormat,
    native::{Groups, LevelName, MANY_ROWS, Weights, product_at},
};

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Where the 16-bit floats of a block lie.
fn scales_of(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q6_K => &[208],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4_K | BlockFormat::Q5_K => &[0, 2],
        _ => &[0],
    }
}

fn blocks(format: BlockFormat, weights: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.row_bytes(weights).unwrap())
        .map(|_| random.bits() as u8)
        .collect();
    for block in bytes.chunks_exact_mut(format.bytes_per_block()) {
        for &at in scales_of(format) {
            let scale = f16::from_f32(0.01 * random.float());
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// The left side as products of bytes take it.
fn in_bytes(rows: &[f32]) -> Vec<f64> {
    let rounded = |part: &[f32]| {
        let greatest = part.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = f64::from(greatest) / 127.0;
        let round = |&x: &f32| {
            if greatest == 0.0 {
                0.0
            } else {
                f64::from((x * (127.0 / greatest)).round_ties_even()) * scale
            }
        };
        part.iter().map(round).collect::<Vec<_>>()
    };
    rows.chunks(32).flat_map(rounded).collect()
}

#[track_caller]
fn assert_product(found: &[f32], left: &[f64], weights: &[f32], d_input: usize, what: &str) {
    let n = weights.len() / d_input;
    assert_eq!(found.len(), left.len() / d_input * n, "{what}");
    for (i, found) in found.iter().enumerate() {
        let left = &left[i / n * d_input..][..d_input];
        let weights = &weights[i % n * d_input..][..d_input];
        let products = || (left.iter().zip(weights)).map(|(x, &w)| x * f64::from(w));
        let expected: f64 = products().sum();
        let size: f64 = products().map(f64::abs).sum();
        assert!(
            (f64::from(*found) - expected).abs() <= 1e-5 * size + 1e-12,
            "{what}, output {i}: expected {expected}, found {found}"
        );
    }
}

/// Rows, weight rows and channels.
const SHAPES: [(usize, usize, usize); 5] = [
    (1, 1, 256),
    (1, 37, 512),
    (3, 6, 256),
    (MANY_ROWS - 1, 130, 768),
    // More weight bytes than one thread takes.
    (2, 516, 1024),
];

/// Lends weights.
type Lend = Box<dyn Fn(&mut dyn FnMut(Weights<'_>))>;

/// Products of a few rows and of many, at every level.
fn check(
    name: &str,
    random: &mut Random,
    are_integers: bool,
    weights: impl Fn(&mut Random, usize, usize) -> (Lend, Vec<f32>),
) {
    for (m, n, d_input) in SHAPES {
        let (with, widened) = weights(random, n, d_input);
        let rows = random.floats(m * d_input);
        let exact = |rows: &[f32]| rows.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let left = if are_integers {
            in_bytes(&rows)
        } else {
            exact(&rows)
        };
        for level in LevelName::available() {
            with(&mut |weights| {
                let what = format!("{name}, {level}, {m} rows of {d_input}, {n} outputs");
                let found = product_at(level, &rows, d_input, weights);
                assert_product(&found, &left, &widened, d_input, &what);
            });
        }
        // Many rows are not rounded.
        let rows = random.floats((m + MANY_ROWS) * d_input);
        let left = exact(&rows);
        for level in LevelName::available() {
            with(&mut |weights| {
                let what = format!("{name}, {level}, many rows of {d_input}, {n} outputs");
                let found = product_at(level, &rows, d_input, weights);
                assert_product(&found, &left, &widened, d_input, &what);
            });
        }
    }
}

#[test]
fn blocks_of_every_format_are_multiplied_as_what_they_stand_for() {
    let mut random = Random(1);
    for &format in BlockFormat::ALL {
        if !format.is_integers() {
            continue;
        }
        check(format.name(), &mut random, true, |random, n, d_input| {
            let bytes = blocks(format, n * d_input, random);
            let mut widened = vec![0.0; n * d_input];
            format.dequantize(&bytes, &mut widened).unwrap();
            let with = move |run: &mut dyn FnMut(Weights<'_>)| {
                run(Weights::Blocks {
                    format,
                    bytes: &bytes,
                });
            };
            (Box::new(with), widened)
        });
    }
}

#[test]
fn groups_are_multiplied_as_what_they_stand_for() {
    let mut random = Random(2);
    for (bits, group, zeros) in [
        (4, 32, false),
        (4, 128, true),
        (8, 64, false),
        (8, 128, true),
    ] {
        let name = format!("{bits} bits, groups of {group}, zeros {zeros}");
        check(&name, &mut random, true, |random, n, d_input| {
            let bytes: Vec<u8> = (0..n * d_input * bits / 8)
                .map(|_| random.bits() as u8)
                .collect();
            let groups = n * d_input / group;
            let scales: Vec<f32> = (0..groups).map(|_| 0.01 * random.float()).collect();
            let most = (1 << bits) - 1;
            let zeros = zeros.then(|| {
                let zeros = (0..groups).map(|_| (random.bits() % (most + 1)) as f32);
                zeros.collect::<Vec<_>>()
            });
            let widened = (0..n * d_input).map(|i| {
                let byte = bytes[i * bits / 8];
                let q = if bits == 8 {
                    byte
                } else {
                    byte >> (i % 2 * 4) & 0xf
                };
                let middle = (1 << (bits - 1)) as f32;
                let zero = zeros.as_ref().map_or(middle, |zeros| zeros[i / group]);
                (f32::from(q) - zero) * scales[i / group]
            });
            let widened = widened.collect();
            let with = move |run: &mut dyn FnMut(Weights<'_>)| {
                run(Weights::Groups(Groups {
                    bits,
                    group,
                    bytes: &bytes,
                    scales: &scales,
                    zeros: zeros.as_deref(),
                }));
            };
            (Box::new(with), widened)
        });
    }
}

#[test]
fn floats_of_every_width_are_multiplied() {
    let mut random = Random(3);
    check("f32", &mut random, false, |random, n, d_input| {
        let weights = random.floats(n * d_input);
        let widened = weights.clone();
        let with = move |run: &mut dyn FnMut(Weights<'_>)| run(Weights::F32(&weights));
        (Box::new(with), widened)
    });
    check("f16", &mut random, false, |random, n, d_input| {
        let weights = random.floats(n * d_input).into_iter().map(f16::from_f32);
        let weights: Vec<f16> = weights.collect();
        let widened = weights.iter().map(|x| x.to_f32()).collect();
        let with = move |run: &mut dyn FnMut(Weights<'_>)| run(Weights::F16(&weights));
        (Box::new(with), widened)
    });
    check("bf16", &mut random, false, |random, n, d_input| {
        let weights = random.floats(n * d_input).into_iter().map(bf16::from_f32);
        let weights: Vec<bf16> = weights.collect();
        let widened = weights.iter().map(|x| x.to_f32()).collect();
        let with = move |run: &mut dyn FnMut(Weights<'_>)| run(Weights::BF16(&weights));
        (Box::new(with), widened)
    });
}

#[test]
fn rows_of_any_length_are_multiplied_to_their_end() {
    let mut random = Random(4);
    for d_input in 1..40 {
        let (rows, weights) = (random.floats(2 * d_input), random.floats(3 * d_input));
        let left: Vec<f64> = rows.iter().map(|&x| f64::from(x)).collect();
        for level in LevelName::available() {
            let found = product_at(level, &rows, d_input, Weights::F32(&weights));
            assert_product(
                &found,
                &left,
                &weights,
                d_input,
                &format!("{d_input}, {level}"),
            );
        }
    }
}

#[test]
fn what_is_no_number_stays_none_in_its_row() {
    let mut random = Random(5);
    let bytes = blocks(BlockFormat::Q8_0, 4 * 64, &mut random);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut rows = random.floats(2 * 64);
        rows[40] = bad;
        for level in LevelName::available() {
            let weights = Weights::Blocks {
                format: BlockFormat::Q8_0,
                bytes: &bytes,
            };
            let found = product_at(level, &rows, 64, weights);
            assert!(
                found[..4].iter().all(|x| !x.is_finite()),
                "{level}: {found:?}"
            );
            assert!(
                found[4..].iter().all(|x| x.is_finite()),
                "{level}: {found:?}"
            );
        }
    }
}
