//! Passkey retrieval: a number is hidden in a long text that has nothing to do with it, and asked
//! for at the end (table 1 of the paper, with the text of its released script).
//!
//! All of the prompt but its last characters is prefilled densely. The rest is fed token by token,
//! so that every policy chooses what these tokens read, and continues with greedy tokens. The first
//! number in them must be the hidden one.
//!
//! A harder task hides many numbers, each with an owner, and asks for the number of one: that it is
//! another kind of text no longer tells where to look.

mod answer;
mod chart;
mod experiment;
mod owners;
mod prompt;
mod text;

pub use answer::{first_number, is_correct};
pub use chart::{figure, table};
pub use experiment::{PasskeyConfig, PasskeyOutcome, PasskeyRow, rows, run};
pub use prompt::PasskeyPrompt;
pub use text::{Passkey, PasskeyText};
