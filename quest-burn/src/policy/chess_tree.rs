//! The tree of mean keys that CHESS selects by.

use std::{collections::HashSet, ops::Range};

use super::{Share, lists::ranked};

/// Sizes of a [`Tree`], and how much of each level stays.
pub(super) struct TreeShape {
    /// Pages of a chunk.
    pub chunk: usize,
    /// Chunks of a grid.
    pub grid: usize,
    /// Share of the grids.
    pub grids: Share,
    /// Share of the chunks of these grids.
    pub chunks: Share,
    /// Share of the pages of these chunks.
    pub pages: Share,
    /// Whether the mean of all pages is taken off.
    pub centred: bool,
}

/// Means of pages, of chunks of pages, and of grids of chunks.
pub(super) struct Tree<'a> {
    shape: &'a TreeShape,
    centre: Vec<f32>,
    pages: &'a [Vec<f32>],
    chunks: Vec<Vec<f32>>,
    grids: Vec<Vec<f32>>,
}

impl<'a> Tree<'a> {
    /// A tree over the means of pages. The last chunk and grid may be smaller.
    pub(super) fn new(pages: &'a [Vec<f32>], shape: &'a TreeShape) -> Self {
        let chunks = pages.chunks(shape.chunk).map(mean).collect::<Vec<_>>();
        Self {
            shape,
            centre: if shape.centred {
                mean(pages)
            } else {
                Vec::new()
            },
            pages,
            grids: chunks.chunks(shape.grid).map(mean).collect(),
            chunks,
        }
    }

    /// The best of the candidates, the best first, and at most `room`.
    ///
    /// Of each level its share stays, but as many nodes as hold `room` candidates if there are so
    /// many.
    pub(super) fn select(
        &self,
        anchor: &[f32],
        candidates: Range<usize>,
        room: usize,
    ) -> Vec<usize> {
        let (chunk, grid) = (self.shape.chunk, self.shape.grid);
        let of_chunk = |&index: &usize| within(&candidates, index, chunk);
        let of_grid = |&index: &usize| within(&candidates, index, chunk * grid);

        let grids = (0..self.grids.len()).filter(|grid| of_grid(grid) > 0);
        let grids = self.best(grids, &self.grids, anchor);
        let grids = staying(grids, self.shape.grids, room, of_grid);
        let grids = grids.into_iter().collect::<HashSet<_>>();

        let chunks = (0..self.chunks.len()).filter(|index| grids.contains(&(index / grid)));
        let chunks = self.best(chunks.filter(|c| of_chunk(c) > 0), &self.chunks, anchor);
        let chunks = staying(chunks, self.shape.chunks, room, of_chunk);
        let chunks = chunks.into_iter().collect::<HashSet<_>>();

        let pages = candidates.clone();
        let pages = pages.filter(|page| chunks.contains(&(page / chunk)));
        let mut pages = self.best(pages, self.pages, anchor);
        pages.truncate(self.shape.pages.ceil(pages.len()).min(room));
        pages
    }

    /// Nodes of a level, that with the highest product with the anchor first.
    fn best(
        &self,
        nodes: impl Iterator<Item = usize>,
        level: &[Vec<f32>],
        anchor: &[f32],
    ) -> Vec<usize> {
        let nodes = nodes.collect::<Vec<_>>();
        let scores = nodes.iter().map(|&node| self.product(&level[node], anchor));
        let ranked = ranked(&scores.collect::<Vec<_>>());
        ranked.into_iter().map(|place| nodes[place]).collect()
    }

    fn product(&self, digest: &[f32], anchor: &[f32]) -> f32 {
        let centre = self.centre.iter().copied().chain(core::iter::repeat(0.0));
        let channels = digest.iter().zip(anchor).zip(centre);
        channels.map(|((d, a), c)| (d - c) * (a - c)).sum()
    }
}

fn mean(rows: &[Vec<f32>]) -> Vec<f32> {
    let width = rows.first().map_or(0, Vec::len);
    let sum = |channel: usize| rows.iter().map(|row| row[channel]).sum::<f32>();
    (0..width)
        .map(|channel| sum(channel) / rows.len() as f32)
        .collect()
}

/// Candidates among the pages of a node.
fn within(candidates: &Range<usize>, index: usize, pages: usize) -> usize {
    let end = candidates.end.min((index + 1) * pages);
    end.saturating_sub(candidates.start.max(index * pages))
}

/// The share of the nodes, or as many as hold `room` candidates.
fn staying(
    mut nodes: Vec<usize>,
    share: Share,
    room: usize,
    candidates: impl Fn(&usize) -> usize,
) -> Vec<usize> {
    let mut held = 0;
    let needed = nodes.iter().take_while(|node| {
        let has_room = held < room;
        held += candidates(node);
        has_room
    });
    let needed = needed.count();
    nodes.truncate(share.ceil(nodes.len()).max(needed));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(centred: bool) -> TreeShape {
        let all = Share::of_millionths(1_000_000);
        TreeShape {
            chunk: 2,
            grid: 2,
            grids: Share::of_millionths(500_000),
            chunks: Share::of_millionths(500_000),
            pages: all,
            centred,
        }
    }

    fn pages(keys: [f32; 5]) -> Vec<Vec<f32>> {
        keys.map(|key| vec![key, 1.0]).to_vec()
    }

    #[test]
    fn parents_are_means_of_their_parts() {
        let (pages, shape) = (pages([1., 3., 5., 7., 9.]), shape(false));
        let tree = Tree::new(&pages, &shape);
        assert_eq!(tree.chunks, [[2., 1.], [6., 1.], [9., 1.]]);
        assert_eq!(tree.grids, [[4., 1.], [9., 1.]]);
    }

    #[test]
    fn nodes_without_candidates_take_no_part() {
        let (pages, shape) = (pages([1., 3., 5., 7., 9.]), shape(false));
        let tree = Tree::new(&pages, &shape);
        assert_eq!(tree.select(&[1., 0.], 0..5, 1), [4]);
        assert_eq!(tree.select(&[1., 0.], 0..4, 1), [3]);
        assert_eq!(tree.select(&[-1., 0.], 1..4, 1), [1]);
        assert_eq!(tree.select(&[1., 0.], 1..1, 1), [0usize; 0]);
    }

    #[test]
    fn as_many_nodes_stay_as_hold_the_budget() {
        let (pages, shape) = (pages([1., 3., 5., 7., 9.]), shape(false));
        let tree = Tree::new(&pages, &shape);
        assert_eq!(tree.select(&[1., 0.], 0..5, 4), [4, 3, 2, 1]);
        assert_eq!(tree.select(&[1., 0.], 0..5, 9), [4, 3, 2, 1, 0]);
    }

    #[test]
    fn what_all_digests_share_can_be_taken_off() {
        let keys = [[9., 0.], [10., 0.], [10., 0.], [9., 1.], [9.5, 0.25]];
        let pages = keys.map(|key| key.to_vec()).to_vec();
        let select = |centred: bool| {
            let shape = shape(centred);
            Tree::new(&pages, &shape).select(&[9.5, 2.25], 0..4, 1)
        };
        // Both take the second chunk; the first channel, which hardly differs, decides for page 2.
        assert_eq!(select(true), [3]);
        assert_eq!(select(false), [2]);
    }
}
