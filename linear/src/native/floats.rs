//! Weights that are floats.

use half::{bf16, f16};

use super::{
    level::{LANES, Level},
    product::TILE,
};

/// A float that weights are in.
pub(super) trait Float: Copy + Send + Sync {
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
        // SAFETY: a half is its bits and nothing else, so that as many lie in the same way.
        L::halves(unsafe { &*(x as *const [Self; LANES] as *const [u16; LANES]) })
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn widen<L: Level>(x: &[Self; LANES]) -> L::Floats {
        // SAFETY: as for f16.
        L::upper_halves(unsafe { &*(x as *const [Self; LANES] as *const [u16; LANES]) })
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

/// Widens weights.
#[inline(always)]
pub(super) fn widen<L: Level, F: Float>(weights: &[F], output: &mut [f32]) {
    let vectors = weights.len() / LANES;
    for i in 0..vectors {
        let floats = L::to_array(F::widen::<L>(vector(weights, i)));
        output[i * LANES..][..LANES].copy_from_slice(&floats);
    }
    for (output, weight) in output.iter_mut().zip(weights).skip(vectors * LANES) {
        *output = weight.float();
    }
}

/// Sums of a row, so that an addition need not wait for the one before.
const CHAINS: usize = 4;

/// Products of [`TILE`] weight rows with `M` LHS rows.
///
/// A weight row is read to its end before the next one: the processor foresees one stream of neighbours,
/// and reads rows side by side at half the speed.
#[inline(always)]
pub(super) fn tile<L: Level, F: Float, const M: usize>(
    weights: &[F],
    rows: [usize; TILE],
    lhs: &[f32],
    d_input: usize,
    first_lhs: usize,
) -> [[f32; M]; TILE] {
    let mut products = [[0.0; M]; TILE];
    for t in 0..TILE {
        let weights = &weights[rows[t] * d_input..][..d_input];
        products[t] = row::<L, F, M>(weights, &lhs[first_lhs * d_input..][..M * d_input]);
    }
    products
}

#[inline(always)]
fn row<L: Level, F: Float, const M: usize>(weights: &[F], lhs: &[f32]) -> [f32; M] {
    let d_input = weights.len();
    let vectors = d_input / LANES;
    let mut sums = [[L::zeros(); M]; CHAINS];
    for i in 0..vectors / CHAINS {
        for (chain, sums) in sums.iter_mut().enumerate() {
            add::<L, F, M>(weights, lhs, i * CHAINS + chain, sums);
        }
    }
    for i in vectors / CHAINS * CHAINS..vectors {
        add::<L, F, M>(weights, lhs, i, &mut sums[i % CHAINS]);
    }
    let ones = L::floats(&[1.0; LANES]);
    let mut products = [0.0; M];
    for m in 0..M {
        let first = L::multiply_add(ones, sums[0][m], sums[1][m]);
        let last = L::multiply_add(ones, sums[2][m], sums[3][m]);
        products[m] = L::sum(L::multiply_add(ones, first, last));
        for i in vectors * LANES..d_input {
            products[m] += weights[i].float() * lhs[m * d_input + i];
        }
    }
    products
}

/// Adds the products of the `i`-th vectors.
#[inline(always)]
fn add<L: Level, F: Float, const M: usize>(
    weights: &[F],
    lhs: &[f32],
    i: usize,
    sums: &mut [L::Floats; M],
) {
    let d_input = weights.len();
    let weights = F::widen::<L>(vector(weights, i));
    for (m, sum) in sums.iter_mut().enumerate() {
        let x = L::floats(vector(&lhs[m * d_input..], i));
        *sum = L::multiply_add(weights, x, *sum);
    }
}

/// The `i`-th vector of a slice.
#[inline(always)]
fn vector<T>(x: &[T], i: usize) -> &[T; LANES] {
    x[i * LANES..].first_chunk().expect("vectors are counted")
}
