use super::{BYTES, LANES, Level};

/// What every processor has, in plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Level for Portable {
    type Floats = [f32; LANES];
    type Sums = [i32; LANES];

    const MAX_ROWS: usize = 1;

    #[inline(always)]
    fn zeros() -> Self::Floats {
        [0.0; LANES]
    }

    #[inline(always)]
    fn floats(x: &[f32; LANES]) -> Self::Floats {
        *x
    }

    #[inline(always)]
    fn to_array(x: Self::Floats) -> [f32; LANES] {
        x
    }

    #[inline(always)]
    fn halves(x: &[u16; LANES]) -> Self::Floats {
        x.map(Self::half)
    }

    #[inline(always)]
    fn half(x: u16) -> f32 {
        half::f16::from_bits(x).to_f32()
    }

    #[inline(always)]
    fn multiply_add(a: Self::Floats, b: Self::Floats, sum: Self::Floats) -> Self::Floats {
        core::array::from_fn(|i| {
            // Elsewhere a fused operation may be a call.
            if cfg!(target_arch = "aarch64") {
                a[i].mul_add(b[i], sum[i])
            } else {
                a[i] * b[i] + sum[i]
            }
        })
    }

    #[inline(always)]
    fn sum(x: Self::Floats) -> f32 {
        ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]))
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(
        weights: &[u8; BYTES],
        x: &[i8; BYTES],
        start: &[i32; LANES],
    ) -> Self::Sums {
        let mut sums = *start;
        for (i, (&weight, &x)) in weights.iter().zip(x).enumerate() {
            sums[i / 4] += i32::from(weight) * i32::from(x);
        }
        sums
    }

    #[inline(always)]
    fn scale_add(sums: Self::Sums, scale: [f32; 2], sum: Self::Floats) -> Self::Floats {
        core::array::from_fn(|i| sums[i] as f32 * scale[i / 4] + sum[i])
    }
}
