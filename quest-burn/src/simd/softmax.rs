use macerator::{Scalar, Simd};

use super::lanes::{Floats, splat};

/// Score of a token that must not be attended to: its weight is exactly zero.
pub(super) const MASKED: f32 = f32::MIN;

/// The highest of some scores.
#[inline(always)]
pub(super) fn highest<S: Simd>(scores: &[Floats<S>]) -> f32 {
    let mut highest = splat::<S>(MASKED);
    for &score in scores {
        highest = highest.max(score);
    }
    highest.reduce_max()
}

/// Turns scores into `exp(score - highest)` and returns their sum.
#[inline(always)]
pub(super) fn exponentials<S: Simd>(scores: &mut [Floats<S>], highest: f32) -> f32 {
    let highest = splat(highest);
    let mut sum = splat::<S>(0.0);
    for score in scores {
        *score = exp(*score - highest);
        sum += *score;
    }
    sum.reduce_add()
}

/// `exp(x)` of numbers that are not positive, within two units in the last place, and zero where
/// the result would be below the smallest normal number. NaN stays NaN.
#[inline(always)]
fn exp<S: Simd>(x: Floats<S>) -> Floats<S> {
    const SMALLEST: f32 = -87.0;
    // ln 2 in two parts, of which the first has few digits, so that multiples of it are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Adding it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2) / 2, minimax.
    const P: [f32; 6] = [
        1.987_569_1e-4,
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ];
    let x = x.lt(splat(SMALLEST)).select(splat(SMALLEST), x);
    let rounded = x.mul_add(splat(core::f32::consts::LOG2_E), splat(ROUND));
    let n = rounded - splat(ROUND);
    let r = n.mul_add(splat(-LN_2[0]), x);
    let r = n.mul_add(splat(-LN_2[1]), r);
    let mut p = splat::<S>(P[0]);
    for &coefficient in &P[1..] {
        p = p.mul_add(r, splat(coefficient));
    }
    let y = p.mul_add(r * r, r + splat(1.0));
    let power_of_two = (rounded.reinterpret::<i32>() << 23) + 0x3f80_0000_i32.splat();
    let y = y * power_of_two.reinterpret();
    x.le(splat(SMALLEST)).select(splat(0.0), y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::lanes::{flat_mut, lanes};

    #[macerator::with_simd]
    fn exponential_of<S: Simd>(x: f32) -> (f32, f32) {
        let mut row = [splat::<S>(x)];
        let sum = exponentials(&mut row, 0.0);
        (flat_mut(&mut row)[0], sum / lanes::<S>() as f32)
    }

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        for i in 0..200_000 {
            let x = i as f32 * -4.37e-4;
            if x < -87.0 {
                break;
            }
            let (found, mean) = exponential_of(x);
            let expected = f64::from(x).exp();
            let error = (f64::from(found) - expected).abs() / expected;
            assert!(
                error < 2.4e-7,
                "exp({x}): {found}, expected {expected}, {error:e}"
            );
            assert!((mean - found).abs() <= 1e-6 * found);
        }
        assert_eq!(exponential_of(0.0).0, 1.0);
    }

    #[test]
    fn masked_scores_weigh_nothing_and_nan_stays_nan() {
        assert_eq!(exponential_of(MASKED).0, 0.0);
        assert_eq!(exponential_of(f32::NEG_INFINITY).0, 0.0);
        assert_eq!(exponential_of(-100.0).0, 0.0);
        assert!(exponential_of(f32::NAN).0.is_nan());
        assert!(exponential_of(f32::NAN).1.is_nan());
    }
}
