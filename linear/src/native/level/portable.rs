use super::{BYTES, LANES, Level};

/// What every processor has, in plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Level for Portable {
    type Floats = [f32; LANES];
    type Bytes = [u8; BYTES];
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
    fn upper_halves(x: &[u16; LANES]) -> Self::Floats {
        let mut floats = [0.0; LANES];
        for (float, x) in floats.iter_mut().zip(x) {
            *float = f32::from_bits(u32::from(*x) << 16);
        }
        floats
    }

    #[inline(always)]
    fn half(x: u16) -> f32 {
        half::f16::from_bits(x).to_f32()
    }

    #[inline(always)]
    fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        core::array::from_fn(|i| a[i] * b[i])
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
    fn bytes(x: &[u8; BYTES]) -> Self::Bytes {
        *x
    }

    #[inline(always)]
    fn to_bytes(x: Self::Bytes) -> [u8; BYTES] {
        x
    }

    #[inline(always)]
    fn nibbles(x: &[u8; BYTES / 2]) -> Self::Bytes {
        let mut bytes = [0; BYTES];
        for (i, x) in x.iter().enumerate() {
            bytes[i] = x & 0xf;
            bytes[i + BYTES / 2] = x >> 4;
        }
        bytes
    }

    #[inline(always)]
    fn pairs(x: &[u8; BYTES / 2]) -> Self::Bytes {
        let mut bytes = [0; BYTES];
        for (pair, x) in bytes.chunks_exact_mut(2).zip(x) {
            pair[0] = x & 0xf;
            pair[1] = x >> 4;
        }
        bytes
    }

    #[inline(always)]
    fn bits(mut x: Self::Bytes, from: u32, mask: u8) -> Self::Bytes {
        for x in &mut x {
            *x = *x >> from & mask;
        }
        x
    }

    #[inline(always)]
    fn joined(mut low: Self::Bytes, high: Self::Bytes) -> Self::Bytes {
        for (low, high) in low.iter_mut().zip(high) {
            *low |= high << 4;
        }
        low
    }

    #[inline(always)]
    fn add_sixteens(mut x: Self::Bytes, set: u32) -> Self::Bytes {
        for (i, x) in x.iter_mut().enumerate() {
            *x += ((set >> i & 1) as u8) << 4;
        }
        x
    }

    #[inline(always)]
    fn flip(mut x: Self::Bytes) -> Self::Bytes {
        for x in &mut x {
            *x ^= 0x80;
        }
        x
    }

    #[inline(always)]
    fn values(mut x: Self::Bytes, values: &[u8; BYTES / 2]) -> Self::Bytes {
        for x in &mut x {
            *x = values[usize::from(*x)];
        }
        x
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(
        weights: Self::Bytes,
        x: &[i8; BYTES],
        start: &[i32; LANES],
    ) -> Self::Sums {
        let mut sums = *start;
        for (i, (weight, &x)) in weights.into_iter().zip(x).enumerate() {
            sums[i / 4] += i32::from(weight) * i32::from(x);
        }
        sums
    }

    #[inline(always)]
    fn scale_add(sums: Self::Sums, scale: [f32; 2], sum: Self::Floats) -> Self::Floats {
        core::array::from_fn(|i| sums[i] as f32 * scale[i / 4] + sum[i])
    }
}
