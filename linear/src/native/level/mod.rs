//! Levels of vector instructions. What is generic over a [`Level`] is compiled for each of them, and
//! [`run`] chooses the highest one that the processor has.
//!
//! A level has what weights are unpacked and multiplied with; what is around it is plain Rust, which the
//! compiler turns into the vectors of the level.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::{fmt, sync::OnceLock};

pub(super) use portable::Portable;

/// Floats of a vector.
pub(super) const LANES: usize = 8;
/// Bytes of a vector.
pub(super) const BYTES: usize = 32;

/// Vectors of 8 floats and of 32 bytes.
///
/// Its functions are called within [`Work::run`] only, which is compiled with the level's instructions
/// and entered where the processor has them.
pub trait Level: Copy {
    /// 8 floats.
    type Floats: Copy;
    /// 32 bytes.
    type Bytes: Copy;
    /// 8 sums of products.
    type Sums: Copy;

    /// LHS rows whose sums registers have room for, with four weight rows.
    const MAX_ROWS: usize;

    /// 8 zeros.
    fn zeros() -> Self::Floats;
    /// Floats as they are.
    fn floats(x: &[f32; LANES]) -> Self::Floats;
    /// The floats of a vector.
    fn to_array(x: Self::Floats) -> [f32; LANES];
    /// 16-bit floats, by their bits.
    fn halves(x: &[u16; LANES]) -> Self::Floats;
    /// Floats of which these are the upper halves.
    fn upper_halves(x: &[u16; LANES]) -> Self::Floats;
    /// A 16-bit float, by its bits.
    fn half(x: u16) -> f32;
    /// `a * b`.
    fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + sum`.
    fn multiply_add(a: Self::Floats, b: Self::Floats, sum: Self::Floats) -> Self::Floats;
    /// The sum of all 8.
    fn sum(x: Self::Floats) -> f32;

    /// Bytes as they are.
    fn bytes(x: &[u8; BYTES]) -> Self::Bytes;
    /// The bytes of a vector.
    fn to_bytes(x: Self::Bytes) -> [u8; BYTES];
    /// The lower halves of bytes, then the upper ones.
    fn nibbles(x: &[u8; BYTES / 2]) -> Self::Bytes;
    /// The lower and the upper half of each byte.
    fn pairs(x: &[u8; BYTES / 2]) -> Self::Bytes;
    /// Of each byte the bits from one on; `mask` has no more than are left.
    fn bits(x: Self::Bytes, from: u32, mask: u8) -> Self::Bytes;
    /// `low | high * 16`, both of at most 4 bits.
    fn joined(low: Self::Bytes, high: Self::Bytes) -> Self::Bytes;
    /// 16 more where a bit is set; the lowest one is that of the first byte.
    fn add_sixteens(x: Self::Bytes, set: u32) -> Self::Bytes;
    /// The other highest bit of each byte.
    fn flip(x: Self::Bytes) -> Self::Bytes;
    /// The values that bytes, less than 16, are the indices of.
    fn values(x: Self::Bytes, values: &[u8; BYTES / 2]) -> Self::Bytes;

    /// `start` plus the products of bytes, four neighbouring ones in a sum. `WIDE` where weights are
    /// more than 7 bits.
    fn dot<const WIDE: bool>(
        weights: Self::Bytes,
        x: &[i8; BYTES],
        start: &[i32; LANES],
    ) -> Self::Sums;
    /// `sums * scale + sum`, with a scale for the first half and one for the second.
    fn scale_add(sums: Self::Sums, scale: [f32; 2], sum: Self::Floats) -> Self::Floats;
}

/// Work that is compiled for every level.
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it. Must be `#[inline(always)]`, as must be what it calls: that is how it gets the level's
    /// instructions.
    fn run<L: Level>(self) -> Self::Output;
}

/// The levels by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LevelName {
    /// What every processor has.
    Portable,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl LevelName {
    /// Those that this processor has, the highest one last.
    pub fn available() -> Vec<Self> {
        [
            Self::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512,
        ]
        .into_iter()
        .filter(|level| level.is_available())
        .collect()
    }

    /// The highest one that this processor has.
    pub fn best() -> Self {
        static BEST: OnceLock<LevelName> = OnceLock::new();
        let highest = || Self::available().into_iter().max();
        *BEST.get_or_init(|| highest().unwrap_or(Self::Portable))
    }

    fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::is_available(),
        }
    }

    /// Does work with this level's instructions.
    ///
    /// # Panics
    ///
    /// When the processor does not have them.
    pub fn run<W: Work>(self, work: W) -> W::Output {
        assert!(
            self <= Self::best(),
            "vector instructions: expected those of this processor, {} at most, found {self}",
            Self::best()
        );
        match self {
            Self::Portable => work.run::<Portable>(),
            // SAFETY: the processor has the level's instructions, which was asserted above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::run(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::run(work) },
        }
    }
}

impl fmt::Display for LevelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512",
        })
    }
}
