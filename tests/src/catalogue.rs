//! The shapes that the operations are tested on.

use std::fmt;

/// A problem of paged attention: a cache, and how much of it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Tokens per page.
    pub page_size: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// KV heads.
    pub n_kv_heads: usize,
    /// Tokens that each sequence of the batch holds.
    pub lengths: Vec<usize>,
    /// Pages that are read of each sequence that has more.
    pub budget_pages: usize,
}

impl fmt::Display for AttentionShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pages of {}, {}/{} heads of {}, lengths {:?}, {} pages read",
            self.page_size,
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.lengths,
            self.budget_pages
        )
    }
}

/// Every page size, head dim and group size that is supported, with lengths at and around the
/// edges of pages, alone and in ragged batches.
pub fn attention_shapes() -> Vec<AttentionShape> {
    let base = AttentionShape {
        page_size: 16,
        head_dim: 32,
        n_heads: 4,
        n_kv_heads: 2,
        lengths: vec![16 * 6 + 5, 1, 16 * 3],
        budget_pages: 3,
    };
    let mut shapes = Vec::new();
    for page_size in [8, 16, 32, 64, 128] {
        for lengths in lengths_around_pages(page_size) {
            shapes.push(AttentionShape {
                page_size,
                lengths,
                ..base.clone()
            });
        }
    }
    for head_dim in [8, 64, 80, 96, 128, 256] {
        shapes.push(AttentionShape {
            head_dim,
            ..base.clone()
        });
    }
    for (n_heads, n_kv_heads) in [(1, 1), (4, 4), (6, 2), (8, 1), (7, 1), (16, 1), (32, 8)] {
        shapes.push(AttentionShape {
            n_heads,
            n_kv_heads,
            ..base.clone()
        });
    }
    for budget_pages in [1, 2, 6, 7, 100] {
        shapes.push(AttentionShape {
            budget_pages,
            ..base.clone()
        });
    }
    shapes
}

fn lengths_around_pages(page_size: usize) -> Vec<Vec<usize>> {
    vec![
        vec![1],
        vec![page_size - 1, page_size, page_size + 1],
        vec![5 * page_size - 1],
        vec![5 * page_size, 5 * page_size + 1],
        vec![2, 7 * page_size + 3],
    ]
}
