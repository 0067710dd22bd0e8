//! Options of answers that follow a grammar.

use clap::Args;
use quest_burn_models::sampling::TokenMask;

use crate::model::Plan;

/// What an answer has to be.
#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct GrammarOptions {
    /// A file with a JSON schema that the answer has to follow
    #[cfg(feature = "grammar")]
    #[arg(long, value_name = "FILE", conflicts_with_all = CONFLICTS)]
    json_schema: Option<std::path::PathBuf>,
    /// A regular expression that the whole answer has to match
    #[cfg(feature = "grammar")]
    #[arg(long, value_name = "PATTERN", conflicts_with_all = CONFLICTS)]
    regex: Option<String>,
    /// A file with a grammar in Lark's syntax that the answer has to follow, from its rule `start` on
    #[cfg(feature = "grammar")]
    #[arg(long, value_name = "FILE", conflicts_with_all = CONFLICTS)]
    grammar: Option<std::path::PathBuf>,
}

/// Options that no answer under a grammar has.
#[cfg(feature = "grammar")]
const CONFLICTS: [&str; 2] = ["lossless", "warm_up"];

impl GrammarOptions {
    /// The mask of one answer, by a grammar that is compiled before any weights are read. `stop_ids` end the
    /// answer.
    #[cfg(feature = "grammar")]
    pub(crate) fn mask(
        &self,
        plan: &Plan,
        stop_ids: &[u32],
    ) -> anyhow::Result<Option<Box<dyn TokenMask>>> {
        use anyhow::Context;
        use quest_burn_models::grammar::{GrammarCompiler, GrammarError};

        let Some((option, source)) = self.source()? else {
            return Ok(None);
        };
        let compile = || {
            let tokenizer = plan.model.model.tokenizer();
            let tokenizer = tokenizer.ok_or(GrammarError::NoTokenizer)?;
            let compiler =
                GrammarCompiler::new(tokenizer, plan.model.config().vocab_size, stop_ids)?;
            compiler.compile(&source)
        };
        let grammar = compile().context(option)?;
        Ok(Some(Box::new(grammar.matcher())))
    }

    /// None, as grammars are not compiled in.
    #[cfg(not(feature = "grammar"))]
    pub(crate) fn mask(
        &self,
        _plan: &Plan,
        _stop_ids: &[u32],
    ) -> anyhow::Result<Option<Box<dyn TokenMask>>> {
        Ok(None)
    }

    /// What was asked for, and the option that asks for it.
    #[cfg(feature = "grammar")]
    fn source(
        &self,
    ) -> anyhow::Result<Option<(&'static str, quest_burn_models::grammar::GrammarSource)>> {
        use anyhow::Context;
        use quest_burn_models::grammar::GrammarSource;

        use crate::ids;

        Ok(match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(path), _, _) => {
                let option = "--json-schema";
                let text = ids::text_file(path).context(option)?;
                let source = GrammarSource::json_schema_text(&text);
                let source = source.with_context(|| format!("{option}: {}", path.display()))?;
                Some((option, source))
            }
            (_, Some(pattern), _) => Some(("--regex", GrammarSource::regex(pattern))),
            (_, _, Some(path)) => {
                let option = "--grammar";
                let text = ids::text_file(path).context(option)?;
                Some((option, GrammarSource::lark(text)))
            }
            (None, None, None) => None,
        })
    }
}
