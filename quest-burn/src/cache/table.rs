use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use super::CacheError;

/// Which pool pages each sequence holds, in order, and how many tokens are in them.
#[derive(Clone, Debug)]
pub(super) struct PageTable {
    page_size: usize,
    max_pages: usize,
    /// Free pool pages; the lowest is taken first, so that a sequence's pages tend to be adjacent.
    free: BinaryHeap<Reverse<u32>>,
    pages: Vec<Vec<u32>>,
    lengths: Vec<usize>,
    /// Pages of each sequence, by their places, that were freed before its end. What `pages` has there is
    /// another's by now.
    gaps: Vec<BTreeSet<usize>>,
}

/// The page table of `batch` sequences for the device, in rows of `max_pages` entries; 0 where a sequence holds no
/// page, and in rows beyond the sequences.
pub(crate) fn page_table_entries<'a>(
    pages: impl Iterator<Item = &'a [u32]>,
    batch: usize,
    max_pages: usize,
) -> Vec<i32> {
    let mut entries = vec![0; batch * max_pages];
    for (row, pages) in entries.chunks_exact_mut(max_pages).zip(pages) {
        for (entry, &page) in row.iter_mut().zip(pages) {
            *entry = page as i32;
        }
    }
    entries
}

impl PageTable {
    pub(super) fn new(n_pages: usize, max_pages: usize, page_size: usize, batch: usize) -> Self {
        Self {
            page_size,
            max_pages,
            free: (0..n_pages as u32).map(Reverse).collect(),
            pages: vec![Vec::new(); batch],
            lengths: vec![0; batch],
            gaps: vec![BTreeSet::new(); batch],
        }
    }

    /// Pages of a sequence, by their places, that were freed before its end.
    pub(super) fn gaps(&self, sequence: usize) -> &BTreeSet<usize> {
        &self.gaps[sequence]
    }

    /// Frees pages of a sequence that no token is to be added to; says how many there were.
    pub(super) fn free(&mut self, sequence: usize, places: impl Iterator<Item = usize>) -> usize {
        let full = self.lengths[sequence] / self.page_size;
        let mut freed = 0;
        for place in places.filter(|&place| place < full) {
            if self.gaps[sequence].insert(place) {
                self.free.push(Reverse(self.pages[sequence][place]));
                freed += 1;
            }
        }
        freed
    }

    pub(super) fn pages(&self) -> &[Vec<u32>] {
        &self.pages
    }

    pub(super) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    pub(super) fn n_free(&self) -> usize {
        self.free.len()
    }

    /// Makes room for `new_tokens[i]` more tokens in sequence `i` and counts them in, or changes
    /// nothing. Says whether a sequence has taken a page.
    pub(super) fn extend(&mut self, new_tokens: &[usize]) -> Result<bool, CacheError> {
        let has_taken = self.reserve(new_tokens)?;
        for (length, new) in self.lengths.iter_mut().zip(new_tokens) {
            *length += new;
        }
        Ok(has_taken)
    }

    /// Takes the pages for `new_tokens[i]` more tokens in sequence `i`, or changes nothing. Says
    /// whether a sequence has taken a page.
    pub(super) fn reserve(&mut self, new_tokens: &[usize]) -> Result<bool, CacheError> {
        if new_tokens.len() != self.lengths.len() {
            return Err(CacheError::Batch {
                what: "a token count",
                batch: self.lengths.len(),
                found: new_tokens.len(),
            });
        }
        if new_tokens.iter().all(|&n| n == 0) {
            return Err(CacheError::NoTokens);
        }
        let lengths = self.lengths.iter().zip(new_tokens);
        let lengths = lengths.map(|(length, &new)| length.saturating_add(new));
        let lengths = lengths.collect::<Vec<_>>();
        let mut requested = 0;
        for (sequence, &length) in lengths.iter().enumerate() {
            let needed = length.div_ceil(self.page_size);
            if needed > self.max_pages {
                return Err(CacheError::SequenceFull {
                    sequence,
                    capacity: self.max_pages * self.page_size,
                    requested: length,
                });
            }
            requested += needed.saturating_sub(self.pages[sequence].len());
        }
        if requested > self.free.len() {
            return Err(CacheError::PoolFull {
                requested,
                free: self.free.len(),
                page_size: self.page_size,
            });
        }
        for (pages, length) in self.pages.iter_mut().zip(lengths) {
            while pages.len() < length.div_ceil(self.page_size) {
                let Reverse(page) = self.free.pop().expect("free pages were counted");
                pages.push(page);
            }
        }
        Ok(requested > 0)
    }

    /// Counts one token in, in each sequence that has grown, for which a page was reserved.
    #[cfg(any(feature = "cube", test))]
    pub(super) fn advance(&mut self, grown: &[bool]) {
        for (sequence, _) in grown.iter().enumerate().filter(|(_, grown)| **grown) {
            debug_assert!(self.room(sequence) > 0, "pages were reserved");
            self.lengths[sequence] += 1;
        }
    }

    /// Shortens a sequence, which keeps its pages: they are reserved from then on.
    #[cfg(any(feature = "cube", test))]
    pub(super) fn rewind(&mut self, sequence: usize, length: usize) {
        debug_assert!(
            length <= self.lengths[sequence],
            "a rewound sequence is shorter"
        );
        self.lengths[sequence] = length;
    }

    /// Tokens that the pages of a sequence can still take.
    #[cfg(any(feature = "cube", test))]
    pub(super) fn room(&self, sequence: usize) -> usize {
        self.pages[sequence].len() * self.page_size - self.lengths[sequence]
    }

    /// Tokens that a sequence can hold.
    #[cfg(feature = "cube")]
    pub(super) fn capacity(&self) -> usize {
        self.max_pages * self.page_size
    }

    /// Frees the pages that were reserved and hold no token.
    pub(super) fn release_reserved(&mut self) {
        for (pages, length) in self.pages.iter_mut().zip(&self.lengths) {
            let kept = length.div_ceil(self.page_size);
            self.free.extend(pages.drain(kept..).map(Reverse));
        }
    }

    /// Adds the pool's new pages, and allows each sequence `max_pages`.
    pub(super) fn grow(&mut self, n_pages: usize, max_pages: usize) {
        let held = self.pages.iter().map(Vec::len).sum::<usize>();
        let held = held - self.gaps.iter().map(BTreeSet::len).sum::<usize>();
        let before = self.free.len() + held;
        self.free
            .extend((before as u32..n_pages as u32).map(Reverse));
        self.max_pages = max_pages;
    }

    /// Shortens a sequence and frees the pages behind its end.
    pub(super) fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), CacheError> {
        let current = *self.lengths.get(sequence).ok_or(CacheError::Sequence {
            sequence,
            batch: self.lengths.len(),
        })?;
        if length > current {
            return Err(CacheError::Length {
                sequence,
                current,
                length,
            });
        }
        if let Some(first) = self.gaps[sequence].first() {
            let most = first * self.page_size;
            if length > most {
                return Err(CacheError::Freed {
                    sequence,
                    most,
                    length,
                });
            }
        }
        self.lengths[sequence] = length;
        let kept = length.div_ceil(self.page_size);
        let gaps = std::mem::take(&mut self.gaps[sequence]);
        let left = self.pages[sequence].drain(kept..).zip(kept..);
        let left = left.filter(|(_, place)| !gaps.contains(place));
        self.free.extend(left.map(|(page, _)| Reverse(page)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_taken_lowest_first_and_come_back() {
        let mut table = PageTable::new(4, 4, 8, 2);
        assert!(table.extend(&[9, 3]).unwrap());
        assert_eq!(table.pages(), [vec![0, 1], vec![2]]);
        assert!(
            !table.extend(&[7, 0]).unwrap(),
            "page 1 has room for 7 more"
        );
        table.truncate(0, 8).unwrap();
        assert_eq!(table.n_free(), 2);
        assert!(table.extend(&[0, 6]).unwrap());
        assert_eq!(table.pages(), [vec![0], vec![2, 1]]);
        assert_eq!(table.lengths(), [8, 9]);
    }

    #[test]
    fn reserved_pages_are_used_up_or_come_back() {
        let mut table = PageTable::new(4, 4, 8, 2);
        table.extend(&[7, 8]).unwrap();
        assert!(table.reserve(&[10, 0]).unwrap());
        assert_eq!((table.room(0), table.room(1)), (17, 0));
        assert!(!table.reserve(&[17, 0]).unwrap(), "pages are there");
        table.advance(&[true, false]);
        table.advance(&[true, false]);
        assert_eq!((table.lengths(), table.n_free()), (&[9, 8][..], 0));
        table.rewind(0, 7);
        assert_eq!((table.room(0), table.n_free()), (17, 0));
        table.advance(&[true, false]);
        table.advance(&[true, false]);
        table.release_reserved();
        assert_eq!((table.pages()[0].len(), table.n_free()), (2, 1));
        table.extend(&[7, 8]).unwrap();
        assert_eq!(table.n_free(), 0);
    }

    #[test]
    fn freed_pages_serve_others_and_are_not_freed_again() {
        let mut table = PageTable::new(4, 9, 8, 2);
        table.extend(&[25, 0]).unwrap();
        assert_eq!(
            table.free(0, [1, 2, 3].into_iter()),
            2,
            "the last one is not full"
        );
        assert_eq!(table.free(0, [1].into_iter()), 0);
        table.extend(&[0, 16]).unwrap();
        assert_eq!((table.pages()[1].clone(), table.n_free()), (vec![1, 2], 0));
        table.grow(5, 9);
        assert_eq!(table.n_free(), 1);
        let error = table.truncate(0, 9).unwrap_err();
        assert_eq!(
            error.to_string(),
            "KV cache: expected at most 8 tokens to stay in sequence 0, as its pages from there on were \
             freed in part, found 9"
        );
        table.truncate(0, 8).unwrap();
        assert_eq!((table.n_free(), table.gaps(0).len()), (2, 0));
        table.truncate(1, 0).unwrap();
        assert_eq!(table.n_free(), 4);
    }

    #[test]
    fn a_full_pool_changes_nothing() {
        let mut table = PageTable::new(2, 2, 8, 2);
        table.extend(&[8, 0]).unwrap();
        let error = table.extend(&[8, 1]).unwrap_err();
        assert_eq!(
            error,
            CacheError::PoolFull {
                requested: 2,
                free: 1,
                page_size: 8
            }
        );
        assert_eq!(table.lengths(), [8, 0]);
        assert_eq!(table.n_free(), 1);
    }

    #[test]
    fn a_sequence_cannot_outgrow_its_row_of_the_table() {
        let mut table = PageTable::new(8, 2, 8, 1);
        for (length, requested) in [(0, 17), (3, usize::MAX)] {
            let error = table.extend(&[requested]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("KV cache: expected at most 16 tokens in sequence 0, found {requested}")
            );
            assert_eq!(table.lengths(), [length]);
            table.extend(&[3]).unwrap();
        }
    }

    #[test]
    fn bad_requests_name_what_is_wrong() {
        let mut table = PageTable::new(2, 2, 8, 2);
        assert!(matches!(
            table.extend(&[1]),
            Err(CacheError::Batch { found: 1, .. })
        ));
        assert_eq!(table.extend(&[0, 0]), Err(CacheError::NoTokens));
        assert!(matches!(
            table.truncate(2, 0),
            Err(CacheError::Sequence { .. })
        ));
        assert!(matches!(
            table.truncate(0, 1),
            Err(CacheError::Length { .. })
        ));
    }
}
