//! Weights that are floats.

use half::{bf16, f16};

use super::{
    level::{LANES, Level},
    product::TILE,
};

/// A float that weights are in.
pub trait Float: Copy + Send + Sync {
    /// Eight of them in 32 bits.
    fn widen<L: Level>(x: &[Self; LANES]) -> L::Floats;
    /// One of them in 32 bits.
    fn float(self) -> f32;
}

impl Float for f32 {
    #[inline(always)]
    fn widen<L: Level>(x: &[Self; LANES]) -> L::Floats {
        L::floats(x)
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self
    }
}

impl Float for f16 {
    #[inline(always)]
    fn widen<L: Level>(x: &[Self; LANES]) -> L::Floats {
        L::halves(&x.map(f16::to_bits))
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn widen<L: Level>(x: &[Self; LANES]) -> L::Floats {
        L::floats(&x.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16)))
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

/// Widens weights.
#[inline(always)]
pub fn widen<L: Level, F: Float>(weights: &[F], output: &mut [f32]) {
    let vectors = weights.len() / LANES;
    for i in 0..vectors {
        let floats = L::to_array(F::widen::<L>(vector(weights, i)));
        output[i * LANES..][..LANES].copy_from_slice(&floats);
    }
    for (output, weight) in output.iter_mut().zip(weights).skip(vectors * LANES) {
        *output = weight.float();
    }
}

/// Products of [`TILE`] weight rows with `M` rows of the left side.
#[inline(always)]
pub fn tile<L: Level, F: Float, const M: usize>(
    weights: &[F],
    rows: [usize; TILE],
    left: &[f32],
    d_input: usize,
    first_left: usize,
) -> [[f32; M]; TILE] {
    let weights: [&[F]; TILE] = rows.map(|row| &weights[row * d_input..][..d_input]);
    let left: [&[f32]; M] =
        core::array::from_fn(|m| &left[(first_left + m) * d_input..][..d_input]);
    let mut sums = [[L::zeros(); M]; TILE];
    let vectors = d_input / LANES;
    for i in 0..vectors {
        let x: [L::Floats; M] = core::array::from_fn(|m| L::floats(vector(left[m], i)));
        for t in 0..TILE {
            let weights = F::widen::<L>(vector(weights[t], i));
            for m in 0..M {
                sums[t][m] = L::multiply_add(weights, x[m], sums[t][m]);
            }
        }
    }
    core::array::from_fn(|t| {
        core::array::from_fn(|m| {
            let end = vectors * LANES..d_input;
            let end = (weights[t][end.clone()].iter()).zip(&left[m][end]);
            end.fold(L::sum(sums[t][m]), |sum, (weight, x)| {
                sum + weight.float() * x
            })
        })
    })
}

/// The `i`-th vector of a slice.
#[inline(always)]
fn vector<T>(x: &[T], i: usize) -> &[T; LANES] {
    x[i * LANES..].first_chunk().expect("vectors are counted")
}
