use thiserror::Error;

/// Why a [`PagedKvCache`](super::PagedKvCache) refused a request; the cache is then unchanged.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheError {
    /// A size in the configuration is zero.
    #[error("KV cache: expected {0} of at least 1, found 0")]
    Empty(&'static str),
    /// The sizes in the configuration are more than can be addressed.
    #[error(
        "KV cache: expected sizes that can be addressed, found {n_pages} pages for a batch of {batch}"
    )]
    TooLarge {
        /// Pages of each layer or of a sequence, whichever are more.
        n_pages: usize,
        /// Sequences.
        batch: usize,
    },
    /// The page size is not supported.
    #[error("page size: expected a power of two from 8 to 128, found {0}")]
    PageSize(usize),
    /// Digests of this head dim cannot be kept in 8 bits.
    #[error("int8 digests: expected a head dim that is a multiple of 16, found {0}")]
    Int8HeadDim(usize),
    /// Keys and values of this head dim cannot be kept in 8 bits.
    #[error("int8 KV cache: expected a head dim that is a multiple of 16, found {0}")]
    Int8KvHeadDim(usize),
    /// No way to store keys and values has this name.
    #[error("KV storage: expected full or int8, found {0}")]
    KvStorage(String),
    /// No way to store digests has this name.
    #[error("digest storage: expected full or int8, found {0}")]
    DigestStorage(String),
    /// The pool has too few free pages.
    #[error(
        "KV cache is full: expected at most {free} free pages of {page_size} tokens to be taken, \
         found a request for {requested}"
    )]
    PoolFull {
        /// Pages that the request needs beyond those the sequences already hold.
        requested: usize,
        /// Pages that are free.
        free: usize,
        /// Tokens per page.
        page_size: usize,
    },
    /// A sequence would be longer than its row of the page table.
    #[error(
        "KV cache: expected at most {capacity} tokens in sequence {sequence}, found {requested}"
    )]
    SequenceFull {
        /// The sequence that would grow.
        sequence: usize,
        /// Tokens that a sequence can hold.
        capacity: usize,
        /// Tokens that it would hold.
        requested: usize,
    },
    /// A per-sequence list has the wrong length.
    #[error("KV cache: expected {what} for each of {batch} sequences, found {found}")]
    Batch {
        /// What the list holds.
        what: &'static str,
        /// Sequences of the cache.
        batch: usize,
        /// Entries that were given.
        found: usize,
    },
    /// No sequence gains a token.
    #[error("KV cache: expected at least one new token, found none")]
    NoTokens,
    /// There is no such sequence.
    #[error("KV cache: expected a sequence below {batch}, found {sequence}")]
    Sequence {
        /// The sequence that was named.
        sequence: usize,
        /// Sequences of the cache.
        batch: usize,
    },
    /// A sequence cannot be truncated to more than it holds.
    #[error(
        "KV cache: expected a length of at most {current} for sequence {sequence}, found {length}"
    )]
    Length {
        /// The sequence that was named.
        sequence: usize,
        /// Tokens that it holds.
        current: usize,
        /// The length that was asked for.
        length: usize,
    },
    /// Pages that would stay were freed.
    #[error(
        "KV cache: expected at most {most} tokens to stay in sequence {sequence}, as its pages from there \
         on were freed in part, found {length}"
    )]
    Freed {
        /// The sequence that was named.
        sequence: usize,
        /// Tokens before the first page that was freed.
        most: usize,
        /// The length that was asked for.
        length: usize,
    },
    /// Pages were freed, and not everything that a pass may read is there.
    #[error(
        "KV cache: expected decode steps by the policy that freed pages of sequence {sequence}, found \
         another pass over it"
    )]
    Gaps {
        /// The sequence.
        sequence: usize,
    },
    /// A sequence has too few pages assigned.
    #[error("KV cache: expected {needed} pages for sequence {sequence}, found {found}")]
    Unassigned {
        /// The sequence, by its place in the step.
        sequence: usize,
        /// Pages that its tokens take after the step.
        needed: usize,
        /// Pages that were assigned.
        found: usize,
    },
    /// A page that a step writes is in two sequences, or twice in one.
    #[error(
        "KV cache: expected pages that are written to belong to one sequence, found page {page} in two \
         places"
    )]
    SharedPage {
        /// The page of the pool.
        page: u32,
    },
    /// There is no such page in the pool.
    #[error("KV cache: expected a page below {n_pages}, found {page}")]
    Page {
        /// The page that was named.
        page: u32,
        /// Pages of the pool.
        n_pages: usize,
    },
    /// A page does not have so many rows.
    #[error("KV cache: expected 1 to {page_size} rows of a page, found {found}")]
    Rows {
        /// Tokens per page.
        page_size: usize,
        /// Rows that were named.
        found: usize,
    },
    /// The cache counts pages itself.
    #[error(
        "KV cache: expected no sequences of the cache's own beside assigned pages, found sequence \
         {sequence}"
    )]
    OwnSequences {
        /// A sequence of the cache that holds pages.
        sequence: usize,
    },
}
