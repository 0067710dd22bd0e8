use burn::tensor::{Int, Tensor, TensorData};
use quest_burn::{cache::PagedKvCache, policy::PagePolicy};

use super::{GenerateError, config::check_ids};
use crate::model::LanguageModel;

/// Appends a prompt to each sequence of a cache (an empty one to those that gain nothing), `chunk`
/// tokens of each at a time, and gives the hidden state after the last token of every prompt that
/// is not empty, `[prompts, 1, d_model]`.
///
/// `progress` is told how many tokens of the longest prompt are done; the device is waited for
/// first, as a GPU takes work faster than it does it, except for the last chunk.
///
/// # Errors
///
/// When there are no tokens, one is outside the vocabulary, the chunk is empty, there is not one
/// prompt per sequence, the cache is full, or the device fails.
pub fn prefill(
    model: &dyn LanguageModel,
    cache: &mut PagedKvCache,
    policy: &dyn PagePolicy,
    prompts: &[&[u32]],
    chunk: usize,
    mut progress: Option<&mut dyn FnMut(usize)>,
) -> Result<Tensor<3>, GenerateError> {
    if chunk == 0 {
        return Err(GenerateError::Chunk);
    }
    for ids in prompts {
        check_ids(ids, model.vocab_size())?;
    }
    let longest = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let mut last = vec![None; prompts.len()];
    for start in (0..longest).step_by(chunk) {
        let part =
            |ids: &&[u32]| ids[start.min(ids.len())..(start + chunk).min(ids.len())].to_vec();
        let parts = prompts.iter().map(part).collect::<Vec<_>>();
        let lengths = parts.iter().map(Vec::len).collect::<Vec<_>>();
        let step = cache.prefill(&lengths)?;
        let ids = rows(parts, step.max_new_tokens(), model);
        let hidden = model.hidden(ids, cache, &step, policy);
        for (sequence, &n) in lengths.iter().enumerate() {
            if n > 0 && start + n == prompts[sequence].len() {
                let row = hidden.clone().slice([sequence..sequence + 1, n - 1..n]);
                last[sequence] = Some(row);
            }
        }
        if let Some(progress) = &mut progress {
            let done = longest.min(start + chunk);
            // What follows the last chunk is queued while the device works on it.
            if done < longest {
                model.device().sync()?;
            }
            progress(done);
        }
    }
    let mut last = last.into_iter().flatten().collect::<Vec<_>>();
    match last.len() {
        0 => Err(GenerateError::EmptyPrompt),
        1 => Ok(last.remove(0)),
        _ => Ok(Tensor::cat(last, 0)),
    }
}

/// Ids, each row filled up to the same length.
pub(super) fn rows(
    mut rows: Vec<Vec<u32>>,
    length: usize,
    model: &dyn LanguageModel,
) -> Tensor<2, Int> {
    for ids in &mut rows {
        ids.resize(length, 0);
    }
    let shape = [rows.len(), length];
    let ids = rows.into_iter().flatten().map(|id| id as i32);
    let ids = TensorData::new(ids.collect::<Vec<_>>(), shape);
    Tensor::from_data(ids, &model.device())
}
