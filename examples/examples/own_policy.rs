//! Your own page policy: the first page and the newest ones, whatever the query.
//!
//! ```text
//! cargo run --release -p quest-burn-examples --example own_policy
//! ```

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use quest_burn::{
    cache::{LayerCache, Step},
    policy::{PagePolicy, Pages},
};
use quest_burn_models::{generation::LikelihoodMode, local::LocalModel};

/// Lists the first page of a sequence and its `newest` last ones.
#[derive(Debug)]
struct FirstAndNewest {
    newest: usize,
}

impl PagePolicy for FirstAndNewest {
    fn select(&self, query: &Tensor<3>, _cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let [batch, heads, _] = query.dims();
        let list = |sequence: usize| {
            let pages = step.pages(sequence).len();
            let first_of_newest = pages.saturating_sub(self.newest).max(1);
            [0].into_iter()
                .chain(first_of_newest..pages)
                .collect::<Vec<_>>()
        };
        let lists = (0..batch).map(list).collect::<Vec<_>>();
        let counts = lists.iter().map(Vec::len).collect::<Vec<_>>();
        let k = counts.iter().copied().max().unwrap_or(0);
        // The same list for each head; -1 where a sequence has fewer pages than the longest.
        let ids = lists.iter().flat_map(|list| {
            let list = list.iter().map(|&page| page as i32);
            let row = list
                .chain(std::iter::repeat(-1))
                .take(k)
                .collect::<Vec<_>>();
            std::iter::repeat_n(row, heads).flatten()
        });
        let ids = TensorData::new(ids.collect::<Vec<_>>(), [batch, heads, k]);
        Pages::Listed {
            ids: Tensor::<3, Int>::from_data(ids, &query.device()),
            counts,
        }
    }

    fn tokens_read(&self, _layer: usize, length: usize, page_size: usize) -> Option<usize> {
        Some(length.min((1 + self.newest) * page_size))
    }
}

fn main() -> anyhow::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
    let text = "The grass is green. The sky is blue. The sun is yellow. Here we go. ".repeat(40);
    for newest in [2, 8, 1000] {
        let policy = Arc::new(FirstAndNewest { newest });
        let model = LocalModel::open(path)?
            .custom_policy(policy)
            .load(&Device::default())?;
        let ids = model
            .tokenizer()
            .expect("the model has one")
            .encode(&text)?;
        let mut session = model.session()?;
        let mode = LikelihoodMode::Decode {
            prefill: ids.len() / 2,
            chunk: 512,
        };
        let nll = session.likelihoods(&ids, mode, &mut |_| ())?;
        println!(
            "first and {newest} newest pages: {:5.1} % of the cache, perplexity {:.4}",
            100.0 * session.statistics().share_read.expect("the policy says"),
            (nll.iter().sum::<f32>() / nll.len() as f32).exp(),
        );
    }
    Ok(())
}
