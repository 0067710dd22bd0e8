//! Two-stage top-k, for heads of so many pages that one cube would take long: top-k of each segment, then of
//! the survivors.

/// Most pages that one cube goes through alone.
const MAX_SINGLE_STAGE_PAGES: usize = 8192;
/// Fewest pages of a segment: a launch takes as long for fewer.
const MIN_SEGMENT_PAGES: usize = 2048;

/// How the pages of a head are cut up: as many survive of each segment as are chosen in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segments {
    pub count: usize,
    pub pages: usize,
}

impl Segments {
    /// The segments of `n_pages` pages, of which `k` are chosen; none where the survivors would not be
    /// much fewer.
    pub(super) fn new(n_pages: usize, k: usize) -> Option<Self> {
        if n_pages <= MAX_SINGLE_STAGE_PAGES {
            return None;
        }
        // As many in a segment as survive in all.
        let pages = (n_pages * k)
            .isqrt()
            .next_power_of_two()
            .max(MIN_SEGMENT_PAGES);
        let count = n_pages.div_ceil(pages);
        (count * k * 4 <= n_pages).then_some(Self { count, pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_are_much_fewer_than_the_pages() {
        let segments = |n_pages, k| Segments::new(n_pages, k).map(|s| (s.count, s.pages));
        assert_eq!(segments(8192, 128), None);
        assert_eq!(segments(16_384, 128), Some((8, 2048)));
        assert_eq!(segments(65_536, 128), Some((16, 4096)));
        assert_eq!(segments(65_535, 1), Some((32, 2048)));
        assert_eq!(segments(65_536, 16_384), None);
        assert_eq!(segments(131_073, 256), Some((17, 8192)));
    }

    #[test]
    fn every_page_is_in_a_stretch() {
        for n_pages in [8193, 10_000, 65_535, 65_536, 65_537, 200_000, 1 << 24] {
            for k in [1, 3, 128, 500] {
                if let Some(Segments { count, pages }) = Segments::new(n_pages, k) {
                    assert!(count * pages >= n_pages && (count - 1) * pages < n_pages);
                    assert!(k < pages);
                }
            }
        }
    }
}
