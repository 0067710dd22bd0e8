use std::collections::{BTreeSet, HashMap};

/// How the keys and values of a page came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// By dense attention.
    Dense,
    /// By the policy of that number, at least in part: only sequences of that policy may read the page.
    Sparse(usize),
}

/// What a page is found by: the page before it, and so all tokens before it, and the tokens in it. Tokens
/// themselves are compared, so that pages whose hashes collide are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub parent: Option<u32>,
    pub origin: Origin,
    pub ids: Box<[u32]>,
}

/// Pages by what is in them, a tree from the beginnings of sequences on.
#[derive(Debug, Default)]
pub(crate) struct PrefixIndex {
    pages: HashMap<Key, u32>,
    keys: HashMap<u32, Key>,
    /// Pages that follow a page, or that a sequence begins with.
    followers: HashMap<Option<u32>, BTreeSet<u32>>,
}

/// A part of a page that begins as a sequence goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub page: u32,
    /// Tokens that both have.
    pub rows: usize,
}

impl PrefixIndex {
    /// Enters a page, unless another one of the same key is there. Gives the one that is.
    pub(super) fn enter(&mut self, page: u32, key: Key) -> u32 {
        if let Some(&known) = self.pages.get(&key) {
            return known;
        }
        self.followers.entry(key.parent).or_default().insert(page);
        self.keys.insert(page, key.clone());
        self.pages.insert(key, page);
        page
    }

    /// Takes a page out that no page follows.
    pub(super) fn remove(&mut self, page: u32) -> Key {
        debug_assert!(!self.is_followed(page), "only leaves are taken out");
        let key = self.keys.remove(&page).expect("the page was entered");
        self.pages.remove(&key);
        let followers = self.followers.get_mut(&key.parent);
        let followers = followers.expect("a page follows its parent");
        followers.remove(&page);
        if followers.is_empty() {
            self.followers.remove(&key.parent);
        }
        key
    }

    pub(super) fn key(&self, page: u32) -> Option<&Key> {
        self.keys.get(&page)
    }

    pub(super) fn is_followed(&self, page: u32) -> bool {
        self.followers.contains_key(&Some(page))
    }

    /// The page that follows `parent` with exactly these tokens, dense ones first.
    pub(super) fn next(&self, parent: Option<u32>, origin: Origin, ids: &[u32]) -> Option<u32> {
        let mut key = Key {
            parent,
            origin: Origin::Dense,
            ids: ids.into(),
        };
        if let Some(&page) = self.pages.get(&key) {
            return Some(page);
        }
        key.origin = origin;
        self.pages.get(&key).copied()
    }

    /// The page after `parent` that has most of the next tokens, at least one.
    pub(super) fn part(&self, parent: Option<u32>, origin: Origin, ids: &[u32]) -> Option<Part> {
        let followers = self.followers.get(&parent)?.iter();
        let parts = followers.filter_map(|&page| {
            let key = &self.keys[&page];
            let may_read = key.origin == Origin::Dense || key.origin == origin;
            let rows = key.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
            (may_read && rows > 0).then_some(Part { page, rows })
        });
        parts.max_by_key(|part| part.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parent: Option<u32>, origin: Origin, ids: &[u32]) -> Key {
        Key {
            parent,
            origin,
            ids: ids.into(),
        }
    }

    #[test]
    fn a_page_is_found_by_all_tokens_before_it() {
        let mut index = PrefixIndex::default();
        index.enter(3, key(None, Origin::Dense, &[1, 2]));
        index.enter(5, key(Some(3), Origin::Dense, &[7, 8]));
        assert_eq!(index.next(None, Origin::Dense, &[1, 2]), Some(3));
        assert_eq!(index.next(Some(3), Origin::Dense, &[7, 8]), Some(5));
        assert_eq!(index.next(None, Origin::Dense, &[7, 8]), None);
        assert_eq!(index.enter(9, key(Some(3), Origin::Dense, &[7, 8])), 5);
        assert!(index.is_followed(3) && !index.is_followed(5));
        index.remove(5);
        assert_eq!(index.next(Some(3), Origin::Dense, &[7, 8]), None);
        assert!(!index.is_followed(3));
    }

    #[test]
    fn what_a_policy_left_is_read_by_that_policy_only() {
        let mut index = PrefixIndex::default();
        index.enter(0, key(None, Origin::Sparse(1), &[1, 2]));
        for (origin, found) in [
            (Origin::Sparse(1), Some(0)),
            (Origin::Sparse(2), None),
            (Origin::Dense, None),
        ] {
            assert_eq!(index.next(None, origin, &[1, 2]), found);
            let part = index.part(None, origin, &[1, 9]);
            assert_eq!(part.map(|part| part.page), found);
        }
        index.enter(4, key(None, Origin::Dense, &[1, 2]));
        assert_eq!(index.next(None, Origin::Sparse(1), &[1, 2]), Some(4));
    }

    #[test]
    fn the_longest_part_of_a_page_is_found() {
        let mut index = PrefixIndex::default();
        index.enter(0, key(None, Origin::Dense, &[1, 2, 3]));
        index.enter(1, key(None, Origin::Dense, &[1, 2, 4, 5]));
        let part = |ids: &[u32]| index.part(None, Origin::Dense, ids);
        assert_eq!(part(&[1, 2, 4, 6]), Some(Part { page: 1, rows: 3 }));
        assert_eq!(part(&[1, 2, 3]), Some(Part { page: 0, rows: 3 }));
        assert_eq!(part(&[2]), None);
    }
}
