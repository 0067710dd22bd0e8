//! Heads of so many pages that one cube would take long to go through them: cubes shortlist stretches of them
//! first.

/// Pages that one cube goes through without a shortlist.
const ALONE: usize = 8192;
/// Pages of a stretch, at least: a launch takes as long for fewer.
const LEAST: usize = 2048;

/// How the pages of a head are cut up: each stretch shortlists as many pages as are chosen in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretches {
    pub count: usize,
    pub pages: usize,
}

impl Stretches {
    /// The stretches of `n_pages` pages, of which `k` are chosen; none where the shortlist would not be
    /// much shorter.
    pub fn new(n_pages: usize, k: usize) -> Option<Self> {
        if n_pages <= ALONE {
            return None;
        }
        // As many in a stretch as on the shortlist.
        let pages = (n_pages * k).isqrt().next_power_of_two().max(LEAST);
        let count = n_pages.div_ceil(pages);
        (count * k * 4 <= n_pages).then_some(Self { count, pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortlist_is_much_shorter_than_the_head() {
        let stretches = |n_pages, k| Stretches::new(n_pages, k).map(|s| (s.count, s.pages));
        assert_eq!(stretches(8192, 128), None);
        assert_eq!(stretches(16_384, 128), Some((8, 2048)));
        assert_eq!(stretches(65_536, 128), Some((16, 4096)));
        assert_eq!(stretches(65_535, 1), Some((32, 2048)));
        assert_eq!(stretches(65_536, 16_384), None);
    }

    #[test]
    fn every_page_is_in_a_stretch() {
        for n_pages in [8193, 10_000, 65_535, 65_536] {
            for k in [1, 3, 128, 500] {
                if let Some(Stretches { count, pages }) = Stretches::new(n_pages, k) {
                    assert!(count * pages >= n_pages && (count - 1) * pages < n_pages);
                    assert!(k < pages);
                }
            }
        }
    }
}
