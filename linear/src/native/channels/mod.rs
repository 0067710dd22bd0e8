//! Products of one row with weights that lie an input channel after the other: a channel that has no part in
//! the sum is not read.

mod matrices;

use half::{bf16, f16};
use rayon::prelude::*;

pub use matrices::channel_product;

use super::{
    floats::Float,
    level::{LANES, Level, LevelName, Work},
};

/// Bytes of active weights below which threads cost more than they save.
const WORTH_THREADS: usize = 1 << 16;

/// Fewest outputs of a thread: a channel's neighbours that it reads in one go.
const FEWEST_OUTPUTS: usize = 128;

/// Weights of a linear layer, `[d_input, d_output]`: a channel's outputs lie side by side.
#[derive(Clone, Copy, Debug)]
pub enum Channels<'a> {
    /// In 32 bits.
    F32(&'a [f32]),
    /// In 16 bits.
    F16(&'a [f16]),
    /// In the upper 16 of 32 bits.
    BF16(&'a [bf16]),
    /// In bytes, with 128 for zero.
    Int8 {
        /// `[d_input, d_output]`
        bytes: &'a [u8],
        /// Outputs of a channel that share a scale.
        group: usize,
        /// `[d_input, d_output / group]`
        scales: &'a [f32],
    },
}

/// An input channel that has a part in the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActiveChannel {
    /// Its index.
    pub channel: usize,
    /// The row's value there.
    pub value: f32,
}

/// Adds what the active channels give to every output, with the highest level of vector instructions that the
/// processor has.
///
/// An output's additions are in the order of `active`, whatever the number of threads.
///
/// # Shapes
///
/// - output: `[d_output]`
///
/// # Panics
///
/// When the weights have no such channel, or scales are not as many.
pub fn add_channels(active: &[ActiveChannel], weights: Channels<'_>, output: &mut [f32]) {
    add_channels_at(LevelName::best(), active, weights, output);
}

/// [`add_channels`] at a given level of vector instructions.
///
/// # Shapes
///
/// - output: `[d_output]`
///
/// # Panics
///
/// As [`add_channels`], and when the processor does not have the instructions.
pub fn add_channels_at(
    level: LevelName,
    active: &[ActiveChannel],
    weights: Channels<'_>,
    output: &mut [f32],
) {
    let n = output.len();
    match weights {
        Channels::F32(weights) => add(level, active, Floats { weights, n }, output),
        Channels::F16(weights) => add(level, active, Floats { weights, n }, output),
        Channels::BF16(weights) => add(level, active, Floats { weights, n }, output),
        Channels::Int8 {
            bytes,
            group,
            scales,
        } => {
            assert!(
                group > 0 && n.is_multiple_of(group),
                "weights in bytes: expected whole groups of {group} outputs, found {n} outputs"
            );
            assert_eq!(scales.len(), bytes.len() / group, "scales of weights");
            let weights = Bytes {
                bytes,
                group,
                scales,
                n,
            };
            add(level, active, weights, output);
        }
    }
}

fn add<C: ChannelRows>(level: LevelName, active: &[ActiveChannel], weights: C, output: &mut [f32]) {
    let n = output.len();
    if n == 0 || active.is_empty() {
        return;
    }
    let run = |first, output: &mut [f32]| {
        level.run(Task {
            weights,
            active,
            first,
            output,
        });
    };
    let threads = rayon::current_num_threads();
    if threads == 1 || active.len() * n * C::BYTES < WORTH_THREADS {
        return run(0, output);
    }
    let outputs = n.div_ceil(threads).next_multiple_of(2 * LANES);
    let outputs = outputs.max(FEWEST_OUTPUTS);
    (output.par_chunks_mut(outputs).enumerate())
        .for_each(|(task, output)| run(task * outputs, output));
}

/// Weights of which single channels are read.
trait ChannelRows: Copy + Send + Sync {
    /// Bytes of a weight.
    const BYTES: usize;

    /// Adds what some channels give, one after the other, to the outputs from `first` on.
    fn add<L: Level, const N: usize>(
        &self,
        channels: [ActiveChannel; N],
        first: usize,
        output: &mut [f32],
    );
}

#[derive(Clone, Copy)]
struct Floats<'a, F> {
    weights: &'a [F],
    n: usize,
}

impl<F: Float> ChannelRows for Floats<'_, F> {
    const BYTES: usize = size_of::<F>();

    #[inline(always)]
    fn add<L: Level, const N: usize>(
        &self,
        channels: [ActiveChannel; N],
        first: usize,
        output: &mut [f32],
    ) {
        let outputs = output.len();
        let rows = channels.map(|x| &self.weights[x.channel * self.n + first..][..outputs]);
        let values = channels.map(|x| L::floats(&[x.value; LANES]));
        let (vectors, rest) = output.as_chunks_mut::<LANES>();
        for (i, output) in vectors.iter_mut().enumerate() {
            let mut sums = L::floats(output);
            for (row, value) in rows.iter().zip(values) {
                let weights = row[i * LANES..].first_chunk();
                let weights = F::widen::<L>(weights.expect("as long as the outputs"));
                sums = L::multiply_add(weights, value, sums);
            }
            *output = L::to_array(sums);
        }
        let done = outputs - rest.len();
        for (i, output) in rest.iter_mut().enumerate() {
            for (row, x) in rows.iter().zip(channels) {
                *output += row[done + i].float() * x.value;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Bytes<'a> {
    bytes: &'a [u8],
    group: usize,
    scales: &'a [f32],
    n: usize,
}

impl ChannelRows for Bytes<'_> {
    const BYTES: usize = 1;

    #[inline(always)]
    fn add<L: Level, const N: usize>(
        &self,
        channels: [ActiveChannel; N],
        first: usize,
        output: &mut [f32],
    ) {
        let groups = self.n / self.group;
        let mut done = 0;
        while done < output.len() {
            let at = first + done;
            let group = at / self.group;
            let end = ((group + 1) * self.group - first).min(output.len());
            let rows = channels.map(|x| &self.bytes[x.channel * self.n + at..][..end - done]);
            let values = channels.map(|x| x.value * self.scales[x.channel * groups + group]);
            let (vectors, rest) = output[done..end].as_chunks_mut::<LANES>();
            for (i, output) in vectors.iter_mut().enumerate() {
                let mut sums = L::floats(output);
                for (row, value) in rows.iter().zip(values) {
                    let bytes = row[i * LANES..].first_chunk::<LANES>();
                    let weights = bytes.expect("as long as the outputs").map(centred);
                    sums = L::multiply_add(L::floats(&weights), L::floats(&[value; LANES]), sums);
                }
                *output = L::to_array(sums);
            }
            let in_vectors = vectors.len() * LANES;
            for (i, output) in rest.iter_mut().enumerate() {
                for (row, value) in rows.iter().zip(values) {
                    *output += centred(row[in_vectors + i]) * value;
                }
            }
            done = end;
        }
    }
}

/// A weight in bytes without its scale.
#[inline(always)]
fn centred(byte: u8) -> f32 {
    (i32::from(byte) - 128) as f32
}

/// Channels whose sums are kept in registers from one to the next.
const AT_ONCE: usize = 4;

/// A thread's outputs, from `first` on.
struct Task<'a, C> {
    weights: C,
    active: &'a [ActiveChannel],
    first: usize,
    output: &'a mut [f32],
}

impl<C: ChannelRows> Work for Task<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self) {
        let (some, rest) = self.active.as_chunks::<AT_ONCE>();
        for &channels in some {
            self.weights
                .add::<L, AT_ONCE>(channels, self.first, self.output);
        }
        for &channel in rest {
            self.weights.add::<L, 1>([channel], self.first, self.output);
        }
    }
}
