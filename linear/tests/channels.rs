//! Products by input channels against the same in 64 bits, at every level of vector instructions that the
//! processor has.

use half::{bf16, f16};
use quest_burn_linear::native::{
    ActiveChannel, Channels, LevelName, add_channels, add_channels_at, channel_product,
};

/// Numbers without a pattern, from -1 to 1.
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut bits = seed;
    let numbers = (0..n).map(|_| {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        (bits >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    numbers.collect()
}

/// Weights `[d_input, d_output]` in every form, with what they stand for.
struct Forms {
    floats: Vec<f32>,
    halves: Vec<f16>,
    brains: Vec<bf16>,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    group: usize,
}

impl Forms {
    fn new(d_input: usize, n: usize) -> Self {
        let floats = random(d_input * n, 1);
        // Groups of as many outputs as divide a channel's.
        let group = [64, 16, 1]
            .into_iter()
            .find(|group| n.is_multiple_of(*group));
        let group = group.unwrap();
        Self {
            halves: floats.iter().map(|&x| f16::from_f32(x)).collect(),
            brains: floats.iter().map(|&x| bf16::from_f32(x)).collect(),
            bytes: floats.iter().map(|&x| (x * 127.0 + 128.0) as u8).collect(),
            scales: random(d_input * n / group, 2),
            floats,
            group,
        }
    }

    fn each(&self, mut run: impl FnMut(&str, Channels<'_>, &[f64])) {
        let wide = |x: f32| f64::from(x);
        let floats: Vec<f64> = self.floats.iter().map(|&x| wide(x)).collect();
        run("f32", Channels::F32(&self.floats), &floats);
        let halves: Vec<f64> = self.halves.iter().map(|x| wide(x.to_f32())).collect();
        run("f16", Channels::F16(&self.halves), &halves);
        let brains: Vec<f64> = self.brains.iter().map(|x| wide(x.to_f32())).collect();
        run("bf16", Channels::BF16(&self.brains), &brains);
        let bytes = self.bytes.iter().enumerate();
        let bytes =
            bytes.map(|(i, &byte)| (f64::from(byte) - 128.0) * wide(self.scales[i / self.group]));
        let int8 = Channels::Int8 {
            bytes: &self.bytes,
            group: self.group,
            scales: &self.scales,
        };
        run("int8", int8, &bytes.collect::<Vec<_>>());
    }
}

/// Channels and outputs. The last is more than one thread takes.
const SHAPES: [(usize, usize); 6] = [(1, 1), (7, 13), (64, 48), (9, 131), (33, 320), (300, 1040)];

#[track_caller]
fn assert_close(found: f32, expected: f64, size: f64, what: &str) {
    let error = (f64::from(found) - expected).abs();
    assert!(
        error <= 1e-5 * size + 1e-6,
        "{what}: expected {expected}, found {found}"
    );
}

#[test]
fn active_channels_are_added_at_every_level() {
    for (d_input, n) in SHAPES {
        let row = random(d_input, 3);
        let some = (0..d_input).filter(|i| i % 3 != 1);
        let active: Vec<_> = some
            .map(|channel| ActiveChannel {
                channel,
                value: row[channel],
            })
            .collect();
        let start = random(n, 4);
        Forms::new(d_input, n).each(|name, weights, wide| {
            for level in LevelName::available() {
                let mut output = start.clone();
                add_channels_at(level, &active, weights, &mut output);
                for (i, found) in output.iter().enumerate() {
                    let term = |x: &ActiveChannel| f64::from(x.value) * wide[x.channel * n + i];
                    let expected = f64::from(start[i]) + active.iter().map(term).sum::<f64>();
                    let size = active.iter().map(|x| term(x).abs()).sum::<f64>() + 1.0;
                    let what = format!("{name}, {level}, {d_input} to {n}, output {i}");
                    assert_close(*found, expected, size, &what);
                }
            }
        });
    }
}

#[test]
fn many_rows_are_multiplied_with_all_channels() {
    for (d_input, n) in SHAPES {
        for m in [2, 9, 40] {
            let rows = random(m * d_input, 5);
            Forms::new(d_input, n).each(|name, weights, wide| {
                let output = channel_product(&rows, [d_input, n], weights);
                assert_eq!(output.len(), m * n);
                for (i, found) in output.iter().enumerate() {
                    let (row, output) = (i / n, i % n);
                    let term = |channel: usize| {
                        f64::from(rows[row * d_input + channel]) * wide[channel * n + output]
                    };
                    let expected: f64 = (0..d_input).map(term).sum();
                    let size: f64 = (0..d_input).map(|channel| term(channel).abs()).sum();
                    assert_close(*found, expected, size, &format!("{name}, {m} rows, {i}"));
                }
            });
        }
    }
}

#[test]
fn channels_that_are_skipped_are_not_read() {
    let (d_input, n) = (12, 1040);
    let mut forms = Forms::new(d_input, n);
    let active: Vec<_> = (0..d_input)
        .step_by(2)
        .map(|channel| ActiveChannel {
            channel,
            value: 1.5,
        })
        .collect();
    let mut clean = Vec::new();
    forms.each(|_, weights, _| {
        clean.push(vec![0.0; n]);
        add_channels(&active, weights, clean.last_mut().unwrap());
    });
    for channel in (1..d_input).step_by(2) {
        let weights = channel * n..(channel + 1) * n;
        forms.floats[weights.clone()].fill(f32::NAN);
        forms.halves[weights.clone()].fill(f16::NAN);
        forms.brains[weights.clone()].fill(bf16::NAN);
        let groups = n / forms.group;
        forms.scales[channel * groups..][..groups].fill(f32::NAN);
    }
    let mut clean = clean.into_iter();
    forms.each(|name, weights, _| {
        let mut output = vec![0.0; n];
        add_channels(&active, weights, &mut output);
        assert_eq!(output, clean.next().unwrap(), "{name}");
    });
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (d_input, n) = (300, 1040);
    let row = random(d_input, 6);
    let active = row.iter().copied().enumerate();
    let active: Vec<_> = active
        .map(|(channel, value)| ActiveChannel { channel, value })
        .collect();
    Forms::new(d_input, n).each(|name, weights, _| {
        let of = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let mut output = vec![0.0; n];
            let pool = pool.build().unwrap();
            pool.install(|| add_channels(&active, weights, &mut output));
            output
        };
        let one = of(1);
        for threads in [2, 3, 5] {
            assert_eq!(of(threads), one, "{name}, {threads} threads");
        }
    });
}

#[test]
#[should_panic(expected = "expected whole groups of 3 outputs, found 4 outputs")]
fn groups_that_do_not_divide_the_outputs_are_refused() {
    let weights = Channels::Int8 {
        bytes: &[0; 4],
        group: 3,
        scales: &[1.0],
    };
    add_channels(&[], weights, &mut [0.0; 4]);
}
