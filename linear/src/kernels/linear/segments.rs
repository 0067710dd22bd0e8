//! Segments of the channels of a batch's rows, and what a launch has to do then.

use super::Epilogue;

/// Most segments of the channels.
const MAX_SEGMENTS: usize = 8;

/// When the cubes of a kernel divide the channels among them: those that take too few weight rows for so many
/// LHS rows would read more of these than weights.
#[derive(Clone, Copy)]
pub(super) struct Segmentation {
    /// Weight rows of a cube that are enough, for so many LHS rows.
    pub enough: [usize; 2],
    /// Fewest channels of a segment.
    pub min_channels: usize,
    /// What segments are multiples of, in channels, where all have to be equal.
    pub equal: Option<usize>,
}

impl Segmentation {
    /// Segments of the channels, a power of two.
    pub(super) fn segments(
        &self,
        multiprocessors: usize,
        [lhs_rows, n, d_input]: [usize; 3],
    ) -> usize {
        let [weight_rows, of_lhs_rows] = self.enough;
        let mut segments = 1;
        while segments < MAX_SEGMENTS
            && of_lhs_rows * n * segments < weight_rows * lhs_rows * multiprocessors
            && d_input >= 2 * segments * self.min_channels
            && self
                .equal
                .is_none_or(|channels| d_input.is_multiple_of(2 * segments * channels))
        {
            segments *= 2;
        }
        segments
    }
}

/// What a launch has to do, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Segments of the channels; those of more than one are added up by another launch.
    pub segments: usize,
    /// Shared memory that a cube may have, in bytes.
    pub shared_bytes: usize,
    /// Cubes of a segment at a time.
    pub cubes: usize,
    pub lhs_rows: usize,
    /// Outputs: every weight row is one where sums are of a segment.
    pub outputs: usize,
    /// Channels of a segment; of the mean one where segments differ.
    pub channels: usize,
    /// What becomes of the sums: nothing where they are of a segment.
    pub epilogue: Epilogue,
}

impl Sizes {
    /// For `[lhs_rows, n, d_input]`, `n` weight rows, on a device.
    pub(super) fn new(
        shared_bytes: usize,
        multiprocessors: usize,
        [lhs_rows, n, d_input]: [usize; 3],
        epilogue: Epilogue,
        segmentation: &Segmentation,
    ) -> Self {
        let segments = segmentation.segments(multiprocessors, [lhs_rows, n, d_input]);
        let epilogue = match segments {
            1 => epilogue,
            _ => Epilogue::default(),
        };
        Self {
            segments,
            shared_bytes,
            cubes: multiprocessors / segments,
            lhs_rows,
            outputs: n / epilogue.per_output(),
            channels: d_input / segments,
            epilogue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EQUAL: Segmentation = Segmentation {
        enough: [3, 2],
        min_channels: 512,
        equal: Some(64),
    };
    const ANY: Segmentation = Segmentation {
        equal: None,
        ..EQUAL
    };
    const EPILOGUE: Epilogue = Epilogue {
        biased: true,
        gated: true,
        added: true,
    };

    #[test]
    fn channels_are_divided_until_cubes_have_enough_weight_rows() {
        // Of 1536 weight rows 128 cubes have 12 each, of 32 LHS rows they need 48.
        assert_eq!(EQUAL.segments(128, [32, 1536, 1 << 14]), 4);
        assert_eq!(EQUAL.segments(128, [32, 1535, 1 << 14]), 8);
        assert_eq!(EQUAL.segments(128, [32, 6144, 1 << 14]), 1);
        assert_eq!(EQUAL.segments(128, [32, 6143, 1 << 14]), 2);
    }

    #[test]
    fn there_are_at_most_eight_segments() {
        assert_eq!(EQUAL.segments(128, [128, 1, 1 << 20]), 8);
    }

    #[test]
    fn no_segment_has_fewer_channels_than_allowed() {
        for (d_input, segments) in [(512, 1), (960, 1), (1024, 2), (4032, 4), (4096, 8)] {
            assert_eq!(ANY.segments(128, [64, 64, d_input]), segments, "{d_input}");
        }
    }

    #[test]
    fn equal_segments_are_multiples() {
        for d_input in (64..1 << 14).step_by(64) {
            let segments = EQUAL.segments(128, [64, 64, d_input]);
            assert!(d_input.is_multiple_of(segments * 64), "{d_input}");
        }
        // 33 times 64: an odd number of multiples.
        assert_eq!(EQUAL.segments(128, [64, 64, 2112]), 1);
        assert_eq!(ANY.segments(128, [64, 64, 2112]), 4);
    }

    #[test]
    fn a_launch_of_one_segment_has_the_epilogue_and_its_outputs() {
        let sizes = Sizes::new(1 << 16, 128, [16, 28_672, 4096], EPILOGUE, &EQUAL);
        let expected = Sizes {
            segments: 1,
            shared_bytes: 1 << 16,
            cubes: 128,
            lhs_rows: 16,
            outputs: 14_336,
            channels: 4096,
            epilogue: EPILOGUE,
        };
        assert_eq!(sizes, expected);
    }

    #[test]
    fn a_launch_of_segments_has_every_weight_row_as_an_output_and_no_epilogue() {
        let sizes = Sizes::new(1 << 16, 132, [32, 1536, 4096], EPILOGUE, &EQUAL);
        let expected = Sizes {
            segments: 8,
            shared_bytes: 1 << 16,
            cubes: 16,
            lhs_rows: 32,
            outputs: 1536,
            channels: 512,
            epilogue: Epilogue::default(),
        };
        assert_eq!(sizes, expected);
    }
}
