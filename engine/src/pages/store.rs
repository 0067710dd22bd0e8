use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use super::prefix::{Key, Origin, Part, PrefixIndex};

/// The pages of a pool, counted: each is held by some sequences, kept for later ones, or free.
///
/// A sequence that holds a page holds all pages before it, so that a page that nobody holds is followed by
/// such pages only.
#[derive(Debug)]
pub(crate) struct PageStore {
    page_size: usize,
    keeps: bool,
    /// The lowest is taken first, so that a sequence's pages tend to be adjacent.
    free: BinaryHeap<Reverse<u32>>,
    holders: Vec<u32>,
    /// When each page was let go of last.
    left: Vec<u64>,
    now: u64,
    index: PrefixIndex,
    /// Pages that are kept, that nobody holds and no page follows: the longest unused first.
    leaves: BTreeSet<(u64, u32)>,
    n_kept: usize,
    /// How often a page was entered, forgotten, held by a first sequence, or let go of by the last one.
    changes: u64,
}

/// What the store has of the beginning of a sequence.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    /// Whole pages, held from now on.
    pub pages: Vec<u32>,
    /// A page that begins as the sequence goes on, held from now on.
    pub part: Option<Part>,
    /// The first of them, the part included, that not dense attention alone has made.
    pub first_sparse: Option<usize>,
}

impl PageStore {
    pub(crate) fn new(n_pages: usize, page_size: usize, keeps: bool) -> Self {
        Self {
            page_size,
            keeps,
            free: (0..n_pages as u32).map(Reverse).collect(),
            holders: vec![0; n_pages],
            left: vec![0; n_pages],
            now: 0,
            index: PrefixIndex::default(),
            leaves: BTreeSet::new(),
            n_kept: 0,
            changes: 0,
        }
    }

    pub(crate) fn n_pages(&self) -> usize {
        self.holders.len()
    }

    /// Pages that hold nothing.
    pub(crate) fn n_free(&self) -> usize {
        self.free.len()
    }

    /// Pages that are kept and that nobody holds.
    pub(crate) fn n_kept(&self) -> usize {
        self.n_kept
    }

    /// A number that changes whenever [`needed`](Self::needed) may.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Pages that can be taken.
    pub(crate) fn available(&self) -> usize {
        self.n_free() + self.n_kept()
    }

    /// Takes a page: a free one, or the one that was kept the longest unused.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(Reverse(page)) => page,
            None => self.evict()?,
        };
        debug_assert_eq!(self.holders[page as usize], 0);
        self.holders[page as usize] = 1;
        Some(page)
    }

    fn evict(&mut self) -> Option<u32> {
        let (_, page) = self.leaves.pop_first()?;
        self.n_kept -= 1;
        self.forget(page);
        Some(page)
    }

    /// Takes a page out of the index. The one before it may be a leaf then.
    fn forget(&mut self, page: u32) {
        self.changes += 1;
        let Key { parent, .. } = self.index.remove(page);
        if let Some(parent) = parent {
            self.update_leaf(parent);
        }
    }

    fn hold(&mut self, page: u32) {
        self.holders[page as usize] += 1;
        if self.holders[page as usize] == 1 {
            self.changes += 1;
            self.n_kept -= 1;
            self.leaves.remove(&(self.left[page as usize], page));
        }
    }

    /// Lets go of a page. It is free then, unless others hold it or it is kept.
    pub(crate) fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        if self.index.key(page).is_none() {
            self.free.push(Reverse(page));
            return;
        }
        self.changes += 1;
        self.left[page as usize] = self.now;
        self.n_kept += 1;
        self.update_leaf(page);
    }

    fn update_leaf(&mut self, page: u32) {
        if self.holders[page as usize] == 0 && !self.index.is_followed(page) {
            self.leaves.insert((self.left[page as usize], page));
        }
    }

    /// Lets go of a sequence's pages at once.
    pub(crate) fn release_all(&mut self, pages: &[u32]) {
        self.now += 1;
        for &page in pages.iter().rev() {
            self.release(page);
        }
    }

    /// Enters a page of a sequence by what is in it: `ids` after the tokens of `parent`. Gives the page
    /// that the sequence holds from now on: another one where the same tokens are there already.
    pub(crate) fn enter(
        &mut self,
        page: u32,
        parent: Option<u32>,
        origin: Origin,
        ids: &[u32],
    ) -> u32 {
        if !self.keeps {
            return page;
        }
        let key = Key {
            parent,
            origin,
            ids: ids.into(),
        };
        let known = self.index.enter(page, key);
        if known == page {
            self.changes += 1;
            // It may follow a page that was a leaf; the sequence holds that page, so it is none now.
            return page;
        }
        self.hold(known);
        self.release(page);
        known
    }

    /// How many of these tokens the store has, from the first on, for a sequence of such an origin.
    pub(crate) fn known(&self, ids: &[u32], origin: Origin) -> usize {
        let pages = self.walk(ids, origin);
        let (parent, rest) = (pages.last().copied(), &ids[pages.len() * self.page_size..]);
        let part = self.index.part(parent, origin, rest);
        ids.len() - rest.len() + part.map_or(0, |part| part.rows)
    }

    /// Pages that a sequence of these tokens would take, beyond those that others hold already.
    pub(crate) fn needed(&self, ids: &[u32], origin: Origin) -> usize {
        let held = self.walk(ids, origin).into_iter();
        let held = held.filter(|&page| self.holders[page as usize] > 0);
        ids.len().div_ceil(self.page_size) - held.count()
    }

    /// Whole pages of these tokens.
    fn walk(&self, ids: &[u32], origin: Origin) -> Vec<u32> {
        let mut pages = Vec::new();
        for ids in ids.chunks_exact(self.page_size) {
            match self.index.next(pages.last().copied(), origin, ids) {
                Some(page) => pages.push(page),
                None => break,
            }
        }
        pages
    }

    /// Holds what the store has of these tokens.
    pub(crate) fn hold_prefix(&mut self, ids: &[u32], origin: Origin) -> Prefix {
        let pages = self.walk(ids, origin);
        let (parent, rest) = (pages.last().copied(), &ids[pages.len() * self.page_size..]);
        let part = self.index.part(parent, origin, rest);
        let all = pages.iter().copied().chain(part.map(|part| part.page));
        let is_sparse = |page: u32| {
            let key = self.index.key(page);
            key.is_some_and(|key| key.origin != Origin::Dense)
        };
        let first_sparse = all.clone().position(is_sparse);
        let all = all.collect::<Vec<_>>();
        for page in all {
            self.hold(page);
        }
        Prefix {
            pages,
            part,
            first_sparse,
        }
    }

    /// Gives a page that nobody else holds, that no page follows and of which `rows` tokens are all, to the
    /// sequence that holds it, to be written; says whether it did.
    pub(crate) fn claim(&mut self, part: Part) -> bool {
        let key = self.index.key(part.page);
        let is_whole = key.is_some_and(|key| key.ids.len() == part.rows);
        let is_alone = self.holders[part.page as usize] == 1;
        if is_whole && is_alone && !self.index.is_followed(part.page) {
            self.forget(part.page);
            return true;
        }
        false
    }

    /// Checks the counts against the pages of all sequences.
    #[cfg(test)]
    pub(crate) fn check<'a>(&self, sequences: impl IntoIterator<Item = &'a [u32]>) {
        let mut holders = vec![0; self.n_pages()];
        for &page in sequences.into_iter().flatten() {
            holders[page as usize] += 1;
        }
        assert_eq!(self.holders, holders, "holders of each page");
        let pages = 0..self.n_pages() as u32;
        let is_kept = |page: &u32| holders[*page as usize] == 0 && self.index.key(*page).is_some();
        let kept = pages.filter(is_kept).collect::<Vec<_>>();
        assert_eq!(self.n_kept, kept.len(), "kept pages");
        let leaves = kept.iter().filter(|page| !self.index.is_followed(**page));
        let leaves = leaves.copied().collect::<BTreeSet<_>>();
        let found = self.leaves.iter().map(|&(_, page)| page);
        assert_eq!(found.collect::<BTreeSet<_>>(), leaves, "leaves");
        let held = holders.iter().filter(|n| **n > 0).count();
        assert_eq!(self.n_free() + kept.len() + held, self.n_pages(), "pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENSE: Origin = Origin::Dense;

    /// Pages of the given tokens, entered.
    fn entered(store: &mut PageStore, ids: &[u32]) -> Vec<u32> {
        let mut pages = Vec::new();
        for ids in ids.chunks(store.page_size) {
            let page = store.take().unwrap();
            pages.push(store.enter(page, pages.last().copied(), DENSE, ids));
        }
        pages
    }

    #[test]
    fn pages_of_the_same_tokens_are_one() {
        let mut store = PageStore::new(8, 2, true);
        let first = entered(&mut store, &[1, 2, 3, 4]);
        let second = entered(&mut store, &[1, 2, 3, 5]);
        assert_eq!(first[0], second[0]);
        assert_ne!(first[1], second[1]);
        store.check([&first[..], &second]);
        store.release_all(&first);
        assert_eq!((store.n_free(), store.n_kept()), (5, 1));
        store.release_all(&second);
        assert_eq!((store.n_free(), store.n_kept()), (5, 3));
        store.check([]);
    }

    #[test]
    fn the_longest_unused_ends_are_taken_first() {
        let mut store = PageStore::new(4, 2, true);
        let old = entered(&mut store, &[1, 2, 3, 4]);
        let new = entered(&mut store, &[5, 6, 7, 8]);
        store.release_all(&old);
        store.release_all(&new);
        assert_eq!(store.known(&[1, 2, 3, 4], DENSE), 4);
        assert_eq!(store.take(), Some(old[1]));
        assert_eq!(store.known(&[1, 2, 3, 4], DENSE), 2);
        let used = store.hold_prefix(&[1, 2, 9], DENSE);
        assert_eq!(used.pages, [old[0]]);
        assert_eq!(store.take(), Some(new[1]));
        assert_eq!(store.take(), Some(new[0]));
        assert_eq!(store.take(), None, "the last one is held");
    }

    #[test]
    fn the_end_of_a_sequence_is_claimed_once_and_only_as_a_whole() {
        let mut store = PageStore::new(4, 4, true);
        let pages = entered(&mut store, &[1, 2, 3, 4, 5, 6]);
        store.release_all(&pages);
        assert_eq!(store.needed(&[1, 2, 3, 4, 5, 6, 7], DENSE), 2);
        let first = store.hold_prefix(&[1, 2, 3, 4, 5, 6, 7], DENSE);
        let part = first.part.unwrap();
        assert_eq!((part.page, part.rows), (pages[1], 2));
        let second = store.hold_prefix(&[1, 2, 3, 4, 5, 6, 8], DENSE);
        assert_eq!(second.part, Some(part));
        assert!(!store.claim(part), "two hold it");
        store.release(part.page);
        assert!(store.claim(part));
        assert_eq!(store.known(&[1, 2, 3, 4, 5, 6, 8], DENSE), 4);
        store.check([&[pages[0], pages[0], pages[1]][..]]);
    }

    #[test]
    fn nothing_is_kept_where_that_is_not_wanted() {
        let mut store = PageStore::new(2, 2, false);
        let pages = entered(&mut store, &[1, 2, 3, 4]);
        assert_eq!(store.known(&[1, 2, 3, 4], DENSE), 0);
        store.release_all(&pages);
        assert_eq!((store.n_free(), store.n_kept()), (2, 0));
    }
}
