//! How the blocks of a format become vectors: integers of a part, scales of eight parts.

use super::{integers::Numbers, level::Level, lhs::EIGHT};
use crate::blocks::{
    Integers, PART, bytes_at, half_at,
    iq4_nl::{IQ4_NL, VALUES},
    q4_0::Q4_0,
    q4_1::Q4_1,
    q4_k::{Q4_K, ScalesAndMinima},
    q5_0::Q5_0,
    q5_1::Q5_1,
    q5_k::Q5_K,
    q6_k::Q6_K,
    q8_0::Q8_0,
};

/// A format in vectors. Both functions are of blocks that lie one after the other.
pub(super) trait Unpack: Integers {
    /// Whether the halves of a part have scales of their own.
    const HALVES: bool = false;

    /// The integers of a part of a block.
    fn part<L: Level>(block: &[u8], part: usize) -> L::Bytes;

    /// Scales and minima of eight parts, or of as many as there are blocks of a single part; such blocks begin
    /// with the scale, which the minimum follows.
    #[inline(always)]
    fn numbers<L: Level>(blocks: &[u8]) -> Numbers<L> {
        const {
            assert!(
                Self::PARTS == 1,
                "a block of several parts says where their scales are"
            )
        };
        // Both at once: a vector is made of its numbers one by one.
        let mut heads = [0_u32; EIGHT];
        let read = |block: &[u8]| match Self::MINIMA {
            true => u32::from_le_bytes(*bytes_at(block, 0)),
            false => u32::from(half_at(block, 0)),
        };
        if blocks.len() == EIGHT * Self::BYTES {
            for (i, head) in heads.iter_mut().enumerate() {
                *head = read(&blocks[i * Self::BYTES..][..Self::BYTES]);
            }
        } else {
            for (head, block) in heads.iter_mut().zip(blocks.chunks_exact(Self::BYTES)) {
                *head = read(block);
            }
        }
        let minima = match Self::MINIMA {
            true => L::halves(&heads.map(|head| (head >> 16) as u16)),
            false => L::zeros(),
        };
        Numbers {
            scales: [L::halves(&heads.map(|head| head as u16)); 2],
            minima,
        }
    }
}

impl Unpack for Q4_0 {
    #[inline(always)]
    fn part<L: Level>(block: &[u8], _part: usize) -> L::Bytes {
        L::nibbles(bytes_at(block, 2))
    }
}

impl Unpack for Q4_1 {
    #[inline(always)]
    fn part<L: Level>(block: &[u8], _part: usize) -> L::Bytes {
        L::nibbles(bytes_at(block, 4))
    }
}

impl Unpack for Q5_0 {
    #[inline(always)]
    fn part<L: Level>(block: &[u8], _part: usize) -> L::Bytes {
        let fifths = u32::from_le_bytes(*bytes_at(block, 2));
        L::add_sixteens(L::nibbles(bytes_at(block, 6)), fifths)
    }
}

impl Unpack for Q5_1 {
    #[inline(always)]
    fn part<L: Level>(block: &[u8], _part: usize) -> L::Bytes {
        let fifths = u32::from_le_bytes(*bytes_at(block, 4));
        L::add_sixteens(L::nibbles(bytes_at(block, 8)), fifths)
    }
}

impl Unpack for Q8_0 {
    #[inline(always)]
    fn part<L: Level>(block: &[u8], _part: usize) -> L::Bytes {
        L::flip(L::bytes(bytes_at(block, 2)))
    }
}

impl Unpack for IQ4_NL {
    #[inline(always)]
    fn part<L: Level>(block: &[u8], _part: usize) -> L::Bytes {
        L::values(L::nibbles(bytes_at(block, 2)), &VALUES)
    }
}

impl Unpack for Q4_K {
    #[inline(always)]
    fn part<L: Level>(block: &[u8], part: usize) -> L::Bytes {
        let bytes = L::bytes(bytes_at(block, 16 + part / 2 * PART));
        L::bits(bytes, part as u32 % 2 * 4, 0xf)
    }

    #[inline(always)]
    fn numbers<L: Level>(block: &[u8]) -> Numbers<L> {
        scales_and_minima(block)
    }
}

impl Unpack for Q5_K {
    #[inline(always)]
    fn part<L: Level>(block: &[u8], part: usize) -> L::Bytes {
        let bytes = L::bytes(bytes_at(block, 16 + PART + part / 2 * PART));
        let fifths = L::bits(L::bytes(bytes_at(block, 16)), part as u32, 1);
        L::joined(L::bits(bytes, part as u32 % 2 * 4, 0xf), fifths)
    }

    #[inline(always)]
    fn numbers<L: Level>(block: &[u8]) -> Numbers<L> {
        scales_and_minima(block)
    }
}

#[inline(always)]
fn scales_and_minima<L: Level>(block: &[u8]) -> Numbers<L> {
    let own = ScalesAndMinima::of(block, L::half);
    Numbers {
        scales: [L::floats(&own.scales); 2],
        minima: L::floats(&own.minima),
    }
}

impl Unpack for Q6_K {
    const HALVES: bool = true;

    #[inline(always)]
    fn part<L: Level>(block: &[u8], part: usize) -> L::Bytes {
        let (half, within) = (part / 4, part % 4);
        let low = L::bytes(bytes_at(block, half * 64 + within % 2 * PART));
        let high = L::bytes(bytes_at(block, 128 + half * PART));
        let low = L::bits(low, within as u32 / 2 * 4, 0xf);
        L::joined(low, L::bits(high, within as u32 * 2, 3))
    }

    #[inline(always)]
    fn numbers<L: Level>(block: &[u8]) -> Numbers<L> {
        let own = Self::scales(block, L::half);
        let (mut first, mut second) = ([0.0; EIGHT], [0.0; EIGHT]);
        for (i, pair) in own.chunks_exact(2).enumerate() {
            [first[i], second[i]] = [pair[0], pair[1]];
        }
        Numbers {
            scales: [L::floats(&first), L::floats(&second)],
            minima: L::zeros(),
        }
    }
}
