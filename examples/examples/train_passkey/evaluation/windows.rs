use quest_burn_models::model::CausalLm;

use super::{Passkey, rows::Row};
use crate::{
    corpus::Vocabulary,
    network::{Sight, logits, rows},
};

/// How often the whole answer is the most likely one when layer `i` sees the newest `windows[i]`
/// tokens only, without a cache.
///
/// # Errors
///
/// When the prompts are too short or the device fails.
pub(crate) fn with_windows(
    passkey: &Passkey,
    model: &CausalLm,
    vocabulary: &Vocabulary,
    name: &str,
    windows: &[Option<usize>],
) -> anyhow::Result<Row> {
    let device = model.embed_tokens.weight.device();
    let mut row = Row::new(name, passkey.tokens, None);
    for trial in passkey.trials(vocabulary)? {
        let answer = vocabulary.encode(&format!(" {}.", trial.key))?;
        // The answer is fed too, but for its end; the prompt gives way at its beginning.
        let ids = [
            &trial.prompt[answer.len() - 1..],
            &answer[..answer.len() - 1],
        ]
        .concat();
        let ids = ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
        let tokens = ids.len();
        let positions = (0..tokens as i32).collect::<Vec<_>>();
        let shape = [1, tokens];
        let sight = Sight::new(windows, tokens, &device);
        let logits = logits(
            model,
            rows(&ids, shape, &device),
            rows(&positions, shape, &device),
            &sight,
        );
        let last = logits.narrow(0, tokens - answer.len(), answer.len());
        let best = last.argmax(1).try_into_data()?.convert::<i64>();
        let best = best.try_to_vec::<i64>().expect("converted one line above");
        let best = best.iter().map(|&id| id as u32).collect::<Vec<_>>();
        row.count(&trial, best == answer, vocabulary.decode(&best)?);
    }
    Ok(row)
}
