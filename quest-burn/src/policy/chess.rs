use core::{fmt, num::NonZeroUsize, str::FromStr};

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{
    PagePolicy, PageSharing, Pages, PolicyError, QuestConfig, Share,
    chess_tree::{Tree, TreeShape},
    lists::listed,
    options::{OptionValue, policy_options},
    uncertainty::is_uncertain,
};
use crate::{
    FixedPoint,
    cache::{LayerCache, Step},
    ops,
};

/// When a [`ChessPolicy`] selects anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reselect {
    /// Never: once for a prompt.
    Once,
    /// When so many pages were opened.
    Every(NonZeroUsize),
    /// When the model was uncertain over the last full page: [`ChessOptions::entropy`] and
    /// [`ChessOptions::variance`].
    Uncertain,
}

impl fmt::Display for Reselect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once => f.write_str("once"),
            Self::Uncertain => f.write_str("uncertain"),
            Self::Every(pages) => write!(f, "{pages}"),
        }
    }
}

impl FromStr for Reselect {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "once" => Ok(Self::Once),
            "uncertain" => Ok(Self::Uncertain),
            pages => pages.parse().map(Self::Every).map_err(|_| ()),
        }
    }
}

impl OptionValue for Reselect {
    fn expected() -> String {
        "once, uncertain, or a number of pages from 1 on".to_owned()
    }
}

const fn at_least_one(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("a number above 0")
}

policy_options! {
    /// Options of a [`ChessPolicy`].
    ChessOptions {
        reselect: Reselect = Reselect::Every(at_least_one(6)), "reselect",
            "When pages are selected anew: once, after so many opened pages, or uncertain, by the next two";
        entropy: FixedPoint = FixedPoint::whole(3), "entropy",
            "With reselect=uncertain: nats that the mean entropy of a page's tokens exceeds";
        variance: FixedPoint = FixedPoint::whole(4), "variance",
            "With reselect=uncertain: what the variance of these entropies exceeds instead";
        anchor: NonZeroUsize = at_least_one(32), "anchor",
            "Newest tokens whose mean key pages are compared with";
        chunk: NonZeroUsize = at_least_one(8), "chunk", "Pages of a chunk";
        grid: NonZeroUsize = at_least_one(8), "grid", "Chunks of a grid";
        grids: Share = Share::of_millionths(500_000), "grids", "Share of the grids that stay";
        chunks: Share = Share::of_millionths(200_000), "chunks",
            "Share of their chunks that stay";
        pages: Share = Share::of_millionths(1_000_000), "pages",
            "Share of their pages that are read, up to the budget";
        sinks: usize = 1, "sinks", "First pages that are always read";
        centred: bool = false, "centred", "Whether the mean of all digests is taken off first";
    }
}

/// Reads the pages whose mean keys are closest to those of the newest tokens, found from the top of
/// a tree down, and selects rarely ([CHESS](https://arxiv.org/abs/2602.20732)).
///
/// A page's digest is its mean key over all heads; chunks of pages and grids of chunks have the mean
/// of their parts. The best grids stay, of their chunks the best, of their pages the best. All heads
/// of a layer read the same pages, beside the first ones and all that were opened since the
/// selection. The query takes no part.
///
/// What the paper does not say is an option with a default of ours: the sizes of chunks and grids,
/// the number of anchor tokens and of first pages, and that shares are of what the level above has
/// left. The budget bounds what is read: where the shares leave fewer pages than it has room for,
/// more grids and chunks stay, and pages that are opened later displace the worst.
///
/// The paper selects anew when the model becomes uncertain ([`Reselect::Uncertain`]): when a page is full,
/// the entropies of the distributions that followed its tokens are averaged. Its levels are percentiles of a
/// test set; ours, 3 nats and a variance of 4, are no measurement. The default is the paper's own baseline, a
/// number of pages.
///
/// Digests are kept on the host, so a step that selects waits for the device and none can be
/// recorded. Truncating a sequence forgets them.
#[derive(Clone, Debug, PartialEq)]
pub struct ChessPolicy {
    quest: QuestConfig,
    options: ChessOptions,
}

/// What a sequence has selected in a layer.
#[derive(Clone, Debug)]
struct Selected {
    policy: ChessPolicy,
    /// Tokens that have been seen.
    seen: usize,
    /// Mean keys of the pages that were full at the selection, over all heads.
    means: Vec<Vec<f32>>,
    /// Pages at the selection.
    n_pages: usize,
    /// Selected pages, the best first.
    ranked: Vec<usize>,
}

impl ChessPolicy {
    /// The policy, with the budget and dense layers of `quest`, and the larger number of
    /// first pages.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate_for`] fails, or the budget holds no page besides the first ones.
    pub fn new(
        quest: QuestConfig,
        options: ChessOptions,
        page_size: usize,
    ) -> Result<Self, PolicyError> {
        quest.validate_for(page_size)?;
        let sinks = quest.selection(page_size).sink_pages.max(options.sinks);
        if quest.budget_pages(page_size) <= sinks {
            return Err(PolicyError::TokenBudget {
                policy: "chess",
                least: (sinks.saturating_add(1)).saturating_mul(page_size),
                why: "the first pages and the newest",
                found: quest.token_budget,
            });
        }
        let options = ChessOptions { sinks, ..options };
        Ok(Self { quest, options })
    }

    /// Pages that are read at most: the first ones and the newest whatever the budget.
    fn budget_pages(&self, step: &Step) -> usize {
        (self.quest.budget_pages(step.page_size())).max(self.options.sinks + 1)
    }

    fn shape(&self) -> TreeShape {
        let options = &self.options;
        TreeShape {
            chunk: options.chunk.get(),
            grid: options.grid.get(),
            grids: options.grids,
            chunks: options.chunks,
            pages: options.pages,
            centred: options.centred,
        }
    }

    /// What a sequence that does not fit into the budget has selected, now or before.
    fn selected(&self, cache: &LayerCache, step: &Step, sequence: usize) -> Selected {
        let (start, length) = (step.starts()[sequence], step.lengths()[sequence]);
        let n_pages = step.pages(sequence).len();
        let before = cache.states().get::<Selected>(sequence);
        let before = before.filter(|before| before.policy == *self && before.seen <= length);
        if let Some(before) = before {
            let opened = n_pages - before.n_pages;
            let is_due = match self.options.reselect {
                Reselect::Once => false,
                Reselect::Every(pages) => opened >= pages.get(),
                Reselect::Uncertain => self.is_uncertain(step, sequence),
            };
            // What was prefilled since has not been compared with anything.
            if !is_due && before.seen >= start {
                return Selected {
                    seen: length,
                    ..before.clone()
                };
            }
        }
        let mut means = before.map_or_else(Vec::new, |before| before.means.clone());
        let full = length / step.page_size();
        means.extend(page_means(cache, &step.pages(sequence)[means.len()..full]));
        let shape = self.shape();
        let tree = Tree::new(&means, &shape);
        let candidates = self.options.sinks..full.min(n_pages - 1);
        let room = self.budget_pages(step) - self.options.sinks - 1;
        let anchor = self.anchor(cache, step, sequence);
        Selected {
            policy: self.clone(),
            seen: length,
            ranked: tree.select(&anchor, candidates, room),
            means,
            n_pages,
        }
    }

    /// Whether the new token opens a page, and the model was uncertain over the one before.
    fn is_uncertain(&self, step: &Step, sequence: usize) -> bool {
        let (start, size) = (step.starts()[sequence], step.page_size());
        if start == 0 || !start.is_multiple_of(size) {
            return false;
        }
        let entropies = step.entropies(sequence, start - size..start);
        is_uncertain(&entropies, self.options.entropy, self.options.variance)
    }

    /// The mean key of the newest tokens.
    fn anchor(&self, cache: &LayerCache, step: &Step, sequence: usize) -> Vec<f32> {
        let length = step.lengths()[sequence];
        let first = length - self.options.anchor.get().min(length);
        let size = step.page_size();
        let pages = first / size..length.div_ceil(size);
        let sums = pages.clone().map(|page| {
            let rows = first.max(page * size) % size..length.min((page + 1) * size) - page * size;
            let pool = &step.pages(sequence)[page..page + 1];
            host(keys(cache, pool).slice_dim(2, rows).sum_dim(2))
        });
        let sum = sums.reduce(|sum, more| sum.iter().zip(more).map(|(a, b)| a + b).collect());
        let n = (length - first) as f32;
        sum.unwrap_or_default().into_iter().map(|v| v / n).collect()
    }

    /// The pages that are read, ascending.
    fn read(&self, selected: &Selected, n_pages: usize, budget: usize) -> Vec<usize> {
        let sinks = self.options.sinks;
        let since = (selected.n_pages - 1).max(sinks)..n_pages;
        let since = since.start.max(n_pages - (budget - sinks).min(n_pages))..n_pages;
        let room = budget - sinks - since.len();
        let mut pages = (0..sinks).chain(since).collect::<Vec<_>>();
        pages.extend(selected.ranked.iter().take(room));
        pages.sort_unstable();
        pages
    }
}

/// The mean key of each page over its rows, all heads in a line.
fn page_means(cache: &LayerCache, pool_pages: &[u32]) -> Vec<Vec<f32>> {
    if pool_pages.is_empty() {
        return Vec::new();
    }
    let keys = keys(cache, pool_pages);
    let [_, heads, _, head_dim] = keys.dims();
    let means = host(keys.mean_dim(2));
    means
        .chunks(heads * head_dim)
        .map(<[f32]>::to_vec)
        .collect()
}

/// The keys of some pages, `[n, n_kv_heads, page_size, head_dim]` in f32.
fn keys(cache: &LayerCache, pool_pages: &[u32]) -> Tensor<4> {
    let ids = pool_pages
        .iter()
        .map(|&page| page as i32)
        .collect::<Vec<_>>();
    let ids = TensorData::new(ids, [pool_pages.len()]);
    let ids = Tensor::<1, Int>::from_data(ids, &cache.device());
    let keys = cache.key_rows().read(
        |pool| pool.clone().select(0, ids.clone()),
        |pool| pool.clone().select(0, ids.clone()),
    );
    keys.cast(DType::F32)
}

fn host(tensor: Tensor<4>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>().try_to_vec();
    data.expect("converted to f32")
}

impl PagePolicy for ChessPolicy {
    fn hears_entropy(&self) -> bool {
        self.options.reselect == Reselect::Uncertain
    }

    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        if self.quest.layer_selection(cache, step).is_none() {
            return Pages::All;
        }
        let n_lists = match self.quest.sharing {
            PageSharing::QueryHead => query.dims()[1],
            PageSharing::KvHead => cache.dims()[1],
        };
        let budget = self.budget_pages(step);
        let of_sequence = |sequence: usize| {
            let n_pages = step.pages(sequence).len();
            let is_idle = step.new_tokens(sequence) == 0;
            let pages = match n_pages <= budget || is_idle {
                true => (0..n_pages.min(budget)).collect(),
                false => self.read(&self.selected(cache, step, sequence), n_pages, budget),
            };
            vec![pages; n_lists]
        };
        let lists = (0..step.batch()).map(of_sequence).collect::<Vec<_>>();
        listed(&lists, &query.device())
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        if self.quest.layer_selection(cache, step).is_some() {
            for sequence in 0..step.batch() {
                let n_pages = step.pages(sequence).len();
                if n_pages > self.budget_pages(step) && step.new_tokens(sequence) > 0 {
                    let selected = self.selected(cache, step, sequence);
                    cache.states_mut().set(sequence, selected);
                }
            }
        }
        // What was selected just now is there.
        let pages = self.select(&query, cache, step, scale);
        ops::paged_attention(query, cache, &pages, step, scale)
    }
}

#[cfg(test)]
mod tests;
