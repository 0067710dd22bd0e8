//! Answers that follow a grammar: a JSON schema, any JSON object, a regular expression, or a grammar in
//! Lark's syntax.
//!
//! A [`GrammarCompiler`] knows the bytes of a tokenizer's tokens. It compiles a [`GrammarSource`] once; each
//! answer has a [`GrammarMatcher`] of the [`Grammar`], which says before each token which ones may come, and is
//! told which one came.
//!
//! ```
//! # use burn::tensor::Device;
//! # use quest_burn_models::{generation::GenerationConfig, grammar::GrammarSource, local::LocalModel};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
//! # let model = LocalModel::open(path)?.load(&Device::default())?;
//! # let config = GenerationConfig::new();
//! let grammar = model.grammar_compiler()?.compile(&GrammarSource::regex("[0-9]{5}"))?;
//! let mut session = model.session()?;
//! let answer = session.generate("The code is", config)?.with_mask(grammar.matcher())?;
//! # let answer = answer.collect::<Result<String, _>>()?;
//! # assert!(answer.len() == 5 && answer.parse::<u32>().is_ok());
//! # Ok(())
//! # }
//! ```
//!
//! Grammars may come from strangers. What a source may hold, and what compiling it and each mask may cost, is
//! limited ([`GrammarLimits`]).

mod bounds;
mod cache;
mod calls;
mod compiler;
mod error;
mod limits;
mod matcher;
mod source;
mod vocabulary;
mod watch;

pub use calls::{CallForm, FunctionSchema, ToolCalls};
pub use compiler::GrammarCompiler;
pub use error::GrammarError;
pub use limits::GrammarLimits;
pub use matcher::{Grammar, GrammarMatcher};
pub use source::GrammarSource;

#[cfg(test)]
mod tests;
