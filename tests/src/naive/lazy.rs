use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{Model, attend, attention::dot, model::add};

/// How many tokens, of so many.
pub type HowMany = fn(usize) -> usize;

/// Which tokens of a prompt leave a model's layers, and which come back.
#[derive(Clone, Debug)]
pub struct Lazy {
    /// Layers after which tokens leave, and how many do of how many.
    pub leave: Vec<(usize, HowMany)>,
    /// How many of a layer's tokens a decoded token does not need; none where no token comes back.
    pub unneeded: Option<HowMany>,
}

/// What came of a prompt and decoded tokens.
#[derive(Clone, Debug)]
pub struct LazyRun {
    /// After the prompt, and after each decoded token.
    pub logits: Vec<Vec<f64>>,
    /// Positions that each layer holds after the prompt, and after each decoded token.
    pub held: Vec<Vec<BTreeSet<usize>>>,
}

/// Hidden states by position.
type Rows = BTreeMap<usize, Vec<f64>>;

/// Keys and values of each KV head by position.
type Held = BTreeMap<usize, [Vec<Vec<f64>>; 2]>;

struct State {
    /// Of each layer.
    held: Vec<Held>,
    /// Hidden states of tokens that left, by the place in the list of layers after which they do.
    left: Vec<Rows>,
}

impl Model {
    /// Runs a prompt whose tokens leave, and decodes tokens after it.
    pub fn lazy(&self, lazy: &Lazy, prompt: &[u32], decoded: &[u32]) -> LazyRun {
        let mut state = State {
            held: vec![Held::new(); self.n_layers],
            left: vec![Rows::new(); lazy.leave.len()],
        };
        let mut run = LazyRun {
            logits: Vec::new(),
            held: Vec::new(),
        };
        let mut rows: Rows = prompt
            .iter()
            .map(|&id| self.embedding(id))
            .enumerate()
            .collect();
        for place in 0..=lazy.leave.len() {
            let worth;
            (rows, worth) = self.through(self.stage(lazy, place), rows, &mut state);
            if let Some((_, leave)) = lazy.leave.get(place) {
                let last = prompt.len() - 1;
                let candidates = worth.iter().filter(|(position, _)| **position != last);
                for position in least(candidates, leave(rows.len())) {
                    let row = rows.remove(&position).expect("it is a row");
                    state.left[place].insert(position, row);
                }
            }
        }
        self.note(&rows, &state, &mut run);
        for (i, &id) in decoded.iter().enumerate() {
            let position = prompt.len() + i;
            let rows = self.decode_lazily(lazy, id, position, &mut state);
            self.note(&rows, &state, &mut run);
        }
        run
    }

    fn decode_lazily(&self, lazy: &Lazy, id: u32, position: usize, state: &mut State) -> Rows {
        let mut rows = Rows::from([(position, self.embedding(id))]);
        for place in 0..=lazy.leave.len() {
            let layers = self.stage(lazy, place);
            let next = layers.end;
            let worth;
            (rows, worth) = self.through(layers, rows, state);
            let newest = rows.remove(&position).expect("it is a row");
            if place < lazy.leave.len() {
                // All that came back may leave again, and whoever is needed goes on.
                state.left[place].append(&mut rows);
                if let Some(unneeded) = lazy.unneeded {
                    let unneeded = least(worth.iter(), unneeded(worth.len()));
                    let needed = worth
                        .keys()
                        .filter(|position| !unneeded.contains(*position));
                    for position in needed.filter(|p| !state.held[next].contains_key(*p)) {
                        if let Some(row) = state.left[place].get(position) {
                            rows.insert(*position, row.clone());
                        }
                    }
                }
            }
            rows.insert(position, newest);
        }
        rows
    }

    fn note(&self, rows: &Rows, state: &State, run: &mut LazyRun) {
        let (_, last) = rows.last_key_value().expect("the last token stays");
        run.logits.push(self.logits(last));
        let held = state.held.iter().map(|held| held.keys().copied().collect());
        run.held.push(held.collect());
    }

    fn stage(&self, lazy: &Lazy, place: usize) -> Range<usize> {
        let after = |place: usize| lazy.leave.get(place).map(|(layer, _)| *layer);
        let start = place.checked_sub(1).and_then(after).unwrap_or(0);
        start..after(place).unwrap_or(self.n_layers)
    }

    /// Rows through layers, and what the tokens of the last of these are worth to the last row.
    fn through(
        &self,
        layers: Range<usize>,
        mut rows: Rows,
        state: &mut State,
    ) -> (Rows, BTreeMap<usize, f64>) {
        let mut worth = BTreeMap::new();
        for layer in layers {
            let held = &mut state.held[layer];
            let prefix = format!("model.layers.{layer}");
            for (&position, hidden) in &mut rows {
                let input = self.norm(&format!("{prefix}.input_layernorm"), hidden);
                let prefix = format!("{prefix}.self_attn");
                let keys = self.heads(&prefix, "k", &input, Some(position));
                let values = self.heads(&prefix, "v", &input, None);
                let before = held.insert(position, [keys, values]);
                assert!(before.is_none(), "{position} is computed twice in {layer}");
                let queries = self.heads(&prefix, "q", &input, Some(position));
                let output;
                (output, worth) = self.attention_up_to(position, &queries, held);
                add(hidden, &self.linear(&format!("{prefix}.o_proj"), &output));
                self.add_feed_forward(layer, hidden);
            }
        }
        (rows, worth)
    }

    /// Attention of the heads of a token to those that are held and not behind it: outputs, and the mean weight of
    /// each of them.
    fn attention_up_to(
        &self,
        position: usize,
        queries: &[Vec<f64>],
        held: &Held,
    ) -> (Vec<f64>, BTreeMap<usize, f64>) {
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let seen = held.range(..=position).collect::<Vec<_>>();
        let places = (0..seen.len()).collect::<Vec<_>>();
        let mut worth = vec![0.0; seen.len()];
        let mut output = Vec::new();
        for (head, query) in queries.iter().enumerate() {
            let kv_head = head * self.n_kv_heads / self.n_heads;
            let [keys, values] = [0, 1].map(|which| {
                let rows = seen.iter().map(|(_, rows)| rows[which][kv_head].clone());
                rows.collect::<Vec<_>>()
            });
            output.extend(attend(query, &keys, &values, &places, scale));
            let weights = keys.iter().map(|key| (scale * dot(query, key)).exp());
            let weights = weights.collect::<Vec<_>>();
            let sum = weights.iter().sum::<f64>();
            for (worth, weight) in worth.iter_mut().zip(weights) {
                *worth += weight / sum / self.n_heads as f64;
            }
        }
        let positions = seen.iter().map(|(position, _)| **position);
        (output, positions.zip(worth).collect())
    }
}

/// The `n` positions of least worth; of equal ones the earlier.
fn least<'a>(worth: impl Iterator<Item = (&'a usize, &'a f64)>, n: usize) -> BTreeSet<usize> {
    let mut worth = worth.collect::<Vec<_>>();
    worth.sort_by(|a, b| a.1.total_cmp(b.1));
    worth
        .iter()
        .take(n)
        .map(|(position, _)| **position)
        .collect()
}
