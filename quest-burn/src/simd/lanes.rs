use macerator::{Scalar, Simd, Vector};

/// A vector of f32.
pub(super) type Floats<S> = Vector<S, f32>;

/// Numbers in a vector.
#[inline(always)]
pub(super) fn lanes<S: Simd>() -> usize {
    S::lanes32()
}

/// Elements that are widened at once: two vectors of f32.
#[inline(always)]
pub(super) fn width<S: Simd>() -> usize {
    2 * lanes::<S>()
}

/// The same number in every lane.
#[inline(always)]
pub(super) fn splat<S: Simd>(x: f32) -> Floats<S> {
    x.splat()
}

/// The first vector of a slice.
#[inline(always)]
pub(super) fn load<S: Simd, E: Scalar>(x: &[E]) -> Vector<S, E> {
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&x[..E::lanes::<S>()]))
}

/// Vectors as the numbers in them.
#[inline(always)]
pub(super) fn flat<S: Simd>(x: &[Floats<S>]) -> &[f32] {
    bytemuck::cast_slice(x)
}

/// Vectors as the numbers in them.
#[inline(always)]
pub(super) fn flat_mut<S: Simd>(x: &mut [Floats<S>]) -> &mut [f32] {
    bytemuck::cast_slice_mut(x)
}

/// Asks for memory that will be read soon.
///
/// The processor does not foresee which rows come next: without this, they are read at half the
/// speed or less.
#[inline(always)]
pub(super) fn prefetch<E>(x: &[E]) {
    const LINE: usize = 64;
    #[cfg(target_arch = "x86_64")]
    for line in x.chunks(LINE / size_of::<E>()) {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, LINE);
}
