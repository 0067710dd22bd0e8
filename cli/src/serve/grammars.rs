//! What answers have to be, compiled for the model's tokens.

#[cfg(feature = "grammar")]
pub(super) use with::Grammars;
#[cfg(not(feature = "grammar"))]
pub(super) use without::Grammars;

#[cfg(feature = "grammar")]
mod with {
    use std::sync::OnceLock;

    use quest_burn_models::{
        grammar::{
            CallForm, FunctionSchema, Grammar, GrammarCompiler, GrammarError, GrammarSource,
            ToolCalls,
        },
        sampling::TokenMask,
        tokenizer::Tokenizer,
    };
    use quest_burn_serve::{Calls, CompiledGrammar, Grammar as Asked, ModelInfo};

    /// Compiles grammars.
    pub(in super::super) struct Grammars {
        tokenizer: Tokenizer,
        vocab_size: usize,
        stop_ids: Vec<u32>,
        /// How the model writes calls, where that is known.
        form: Option<CallForm>,
        /// Made for the first request that needs it, as the whole vocabulary is read for it.
        compiler: OnceLock<Result<GrammarCompiler, GrammarError>>,
    }

    impl Grammars {
        pub(in super::super) fn new(
            tokenizer: &Tokenizer,
            model: &ModelInfo,
            form: Option<CallForm>,
        ) -> Self {
            let mut stop_ids = model.stop_ids.clone();
            let others = model.chat_stop_ids.iter();
            let others = others.filter(|id| !model.stop_ids.contains(id));
            stop_ids.extend(others);
            Self {
                tokenizer: tokenizer.clone(),
                vocab_size: model.vocab_size,
                stop_ids,
                form,
                compiler: OnceLock::new(),
            }
        }

        pub(in super::super) fn compile(&self, asked: &Asked) -> Result<CompiledGrammar, String> {
            let compiler = self.compiler.get_or_init(|| {
                GrammarCompiler::new(&self.tokenizer, self.vocab_size, &self.stop_ids)
            });
            let compiler = compiler.as_ref().map_err(ToString::to_string)?;
            let grammar = compiler.compile(&self.source(asked)?);
            let grammar = grammar.map_err(|error| error.to_string())?;
            Ok(CompiledGrammar::new(grammar))
        }

        fn source(&self, asked: &Asked) -> Result<GrammarSource, String> {
            Ok(match asked {
                Asked::JsonSchema(schema) => GrammarSource::json_schema(schema.clone()),
                Asked::JsonObject => GrammarSource::JsonObject,
                Asked::Regex(pattern) => GrammarSource::regex(pattern),
                Asked::Lark(grammar) => GrammarSource::lark(grammar),
                Asked::Choice(texts) => GrammarSource::choice(texts),
                Asked::Calls(calls) => self.calls(calls)?,
            })
        }

        fn calls(&self, calls: &Calls) -> Result<GrammarSource, String> {
            let Some(form) = self.form else {
                return Err(
                    "expected a chat template that shows calls as Llama 3, Mistral or Qwen write them, \
                     found another one"
                        .to_owned(),
                );
            };
            let functions = calls.functions.iter().map(|function| FunctionSchema {
                name: function.name.clone(),
                parameters: function.parameters.clone(),
            });
            let calls = ToolCalls {
                form,
                functions: functions.collect(),
                allows_text: calls.allows_text,
                allows_several: calls.allows_several,
            };
            Ok(calls.source(&self.tokenizer))
        }
    }

    /// A matcher for one answer.
    pub(in super::super) fn mask(grammar: &CompiledGrammar) -> Option<Box<dyn TokenMask>> {
        let grammar = grammar.get::<Grammar>()?;
        Some(Box::new(grammar.matcher()))
    }
}

#[cfg(feature = "grammar")]
pub(super) use with::mask;

#[cfg(not(feature = "grammar"))]
mod without {
    use quest_burn_models::{sampling::TokenMask, tokenizer::Tokenizer};
    use quest_burn_serve::{CompiledGrammar, Grammar, ModelInfo};

    /// Compiles no grammar.
    pub(in super::super) struct Grammars;

    impl Grammars {
        pub(in super::super) fn new(
            _tokenizer: &Tokenizer,
            _model: &ModelInfo,
            _form: Option<()>,
        ) -> Self {
            Self
        }

        pub(in super::super) fn compile(
            &self,
            _grammar: &Grammar,
        ) -> Result<CompiledGrammar, String> {
            Err("grammars are not compiled in: build with `--features grammar`".to_owned())
        }
    }

    pub(in super::super) fn mask(_grammar: &CompiledGrammar) -> Option<Box<dyn TokenMask>> {
        None
    }
}

#[cfg(not(feature = "grammar"))]
pub(super) use without::mask;
