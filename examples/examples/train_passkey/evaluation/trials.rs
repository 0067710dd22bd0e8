//! Prompts with a key, and where it stands in them.

use anyhow::ensure;
use burn::tensor::{Device, Int, Tensor};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::Passkey;
use crate::{
    corpus::{Fact, GRASS, TASK, Vocabulary},
    network::rows,
};

/// A prompt with its key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trial {
    /// Where the key stands, from 0 to 1.
    pub depth: f64,
    pub key: String,
    pub prompt: Vec<u32>,
}

impl Passkey {
    /// The prompts.
    ///
    /// # Errors
    ///
    /// When they are too short for the task.
    pub(crate) fn trials(&self, vocabulary: &Vocabulary) -> anyhow::Result<Vec<Trial>> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let last = self.trials.saturating_sub(1).max(1) as f64;
        let depths = (0..self.trials).map(|index| index as f64 / last);
        depths
            .map(|depth| {
                let key = rng.random_range(1..=50_000u32).to_string();
                let prompt = prompt(vocabulary, self.tokens, depth, &key)?;
                Ok(Trial { depth, key, prompt })
            })
            .collect()
    }
}

/// A passkey prompt of exactly `tokens` tokens.
fn prompt(
    vocabulary: &Vocabulary,
    tokens: usize,
    depth: f64,
    key: &str,
) -> anyhow::Result<Vec<u32>> {
    let fact = Fact::passkey(key.into());
    let statement = fact
        .statement()
        .iter()
        .map(|around| format!("{} {key}{}", around.before, around.after))
        .collect::<String>();
    let question = fact.question(&mut StdRng::seed_from_u64(0)).before;
    let start = vocabulary.encode(&format!("{TASK}\n"))?;
    let middle = vocabulary.encode(&format!("\n{statement}\n"))?;
    let end = vocabulary.encode(&format!("\n{question}"))?;
    let frame = 1 + start.len() + middle.len() + end.len();
    ensure!(
        frame < tokens,
        "prompt: expected more than {frame} tokens, found {tokens}"
    );
    // The text repeats; only its first sentence does not follow a space.
    let again = vocabulary.encode(&format!(" {}", GRASS.join(" ")))?;
    let mut text = vocabulary.encode(&GRASS.join(" "))?;
    while text.len() < tokens {
        text.extend(&again);
    }
    let room = tokens - frame;
    let before = (room as f64 * depth).round() as usize;
    let mut ids = vec![vocabulary.begin()];
    ids.extend(start);
    ids.extend(&text[..before]);
    ids.extend(middle);
    ids.extend(&text[..room - before]);
    ids.extend(end);
    Ok(ids)
}

/// Some columns of the prompts.
pub(super) fn columns(
    trials: &[Trial],
    range: std::ops::Range<usize>,
    device: &Device,
) -> Tensor<2, Int> {
    let shape = [trials.len(), range.len()];
    let ids = trials
        .iter()
        .flat_map(|trial| &trial.prompt[range.clone()])
        .map(|&id| id as i32)
        .collect::<Vec<_>>();
    rows(&ids, shape, device)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{passkey, vocabulary},
        *,
    };

    #[test]
    fn prompts_have_their_length_and_ask_for_the_key_they_hide() {
        let vocabulary = vocabulary();
        let mut places = Vec::new();
        for trial in passkey().trials(vocabulary).unwrap() {
            assert_eq!(trial.prompt.len(), 200);
            let text = vocabulary.decode(&trial.prompt).unwrap();
            let statement = format!(
                "\nThe pass key is {0}. Remember it. {0} is the pass key.\n",
                trial.key
            );
            assert!(text.starts_with(TASK));
            assert!(text.ends_with("\nWhat is the pass key? The pass key is"));
            places.push(text.find(&statement).unwrap());
        }
        assert!(places.is_sorted() && places[0] == TASK.len() + 1);
    }

    #[test]
    fn prompts_without_room_for_the_task_are_refused() {
        let passkey = Passkey {
            tokens: 40,
            ..passkey()
        };
        let error = passkey.trials(vocabulary()).unwrap_err().to_string();
        assert!(error.contains("expected more than"), "{error}");
    }
}
