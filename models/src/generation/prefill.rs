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
    progress: Option<&mut dyn FnMut(usize)>,
) -> Result<Tensor<3>, GenerateError> {
    let Some(progress) = progress else {
        return prefill_until(model, cache, policy, prompts, chunk, None);
    };
    let mut done = |tokens| {
        progress(tokens);
        Ok(())
    };
    prefill_until(model, cache, policy, prompts, chunk, Some(&mut done))
}

/// Is told after each chunk of a prompt how many tokens are done, and ends it by an error.
pub(crate) type ChunkDone<'a> = &'a mut dyn FnMut(usize) -> Result<(), GenerateError>;

/// [`prefill`] that may be ended between two chunks.
pub(crate) fn prefill_until(
    model: &dyn LanguageModel,
    cache: &mut PagedKvCache,
    policy: &dyn PagePolicy,
    prompts: &[&[u32]],
    chunk: usize,
    mut done: Option<ChunkDone<'_>>,
) -> Result<Tensor<3>, GenerateError> {
    if chunk == 0 {
        return Err(GenerateError::Chunk);
    }
    for ids in prompts {
        check_ids(ids, model.vocab_size())?;
    }
    let longest = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let mut last = vec![None; prompts.len()];
    let mut end = 0;
    while end < longest {
        let start = end;
        end = chunk_end(start, longest, chunk);
        let part = |ids: &&[u32]| ids[start.min(ids.len())..end.min(ids.len())].to_vec();
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
        if let Some(done) = &mut done {
            // What follows the last chunk is queued while the device works on it.
            if end < longest {
                model.device().sync()?;
            }
            done(end)?;
        }
    }
    let mut last = last.into_iter().flatten().collect::<Vec<_>>();
    match last.len() {
        0 => Err(GenerateError::EmptyPrompt),
        1 => Ok(last.remove(0)),
        _ => Ok(Tensor::cat(last, 0)),
    }
}

/// Tokens of a prompt that are fed at once at least, where it has as many. Fewer rows may be multiplied
/// with packed weights in a coarser way, that of decoded tokens, and the answer to a prompt should not
/// depend on where its chunks end.
pub const MIN_CHUNK: usize = 16;

/// Where the chunk of `n` tokens that begins at `start` ends: a rest of less than [`MIN_CHUNK`] takes
/// tokens of the chunk before it.
pub fn chunk_end(start: usize, n: usize, chunk: usize) -> usize {
    let end = start.saturating_add(chunk);
    match n.checked_sub(end) {
        None | Some(0) => n,
        Some(rest) if rest < MIN_CHUNK && chunk >= 2 * MIN_CHUNK => n - MIN_CHUNK,
        Some(_) => end,
    }
}

/// Ids, each row filled up to the same length.
pub(crate) fn rows(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(n: usize, chunk: usize) -> Vec<usize> {
        let mut ends = vec![0];
        while *ends.last().unwrap() < n {
            ends.push(chunk_end(*ends.last().unwrap(), n, chunk));
        }
        ends.split_off(1)
    }

    #[test]
    fn no_prompt_ends_in_a_chunk_of_a_few_tokens() {
        assert_eq!(ends(64, 32), [32, 64]);
        assert_eq!(ends(48, 32), [32, 48]);
        assert_eq!(ends(65, 32), [32, 49, 65]);
        assert_eq!(ends(1025, 512), [512, 1009, 1025]);
    }

    #[test]
    fn short_prompts_and_short_chunks_are_as_they_are() {
        assert_eq!(ends(3, 32), [3]);
        assert_eq!(ends(5, 2), [2, 4, 5]);
        assert_eq!(ends(33, 16), [16, 32, 33]);
    }
}
