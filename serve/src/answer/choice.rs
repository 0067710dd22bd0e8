use std::collections::{HashMap, VecDeque};

use super::{
    calls::{Call, CallFinder},
    stop::StopMatcher,
};
use crate::{
    backend::{Event, LayerRead, Token, Usage},
    error::ApiError,
    text::{Decoder, Text, TextError},
};

/// How events become the text of a choice.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChoiceOptions {
    pub stop_ids: Vec<u32>,
    pub stops: Vec<String>,
    pub logprobs: bool,
    /// The parameter that asks for a grammar.
    pub grammar_param: Option<&'static str>,
    /// Functions whose calls are looked for.
    pub functions: Vec<String>,
    /// Tokens of calls that decoding would leave out.
    pub call_tokens: HashMap<u32, String>,
}

/// One answer as it comes: tokens become text, which ends before a stop text and has calls taken out.
pub(crate) struct Choice<'a> {
    text: &'a dyn Text,
    decoder: Box<dyn Decoder + 'a>,
    options: &'a ChoiceOptions,
    stops: StopMatcher,
    calls: Option<CallFinder>,
    /// Tokens whose text is held back, with where it begins.
    waiting: VecDeque<TokenInfo>,
    /// Bytes that were decoded, and that were given out.
    decoded: usize,
    shown: usize,
    tokens: usize,
    prompt_tokens: usize,
}

/// What became known of a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delta {
    pub text: String,
    pub logprobs: Vec<TokenInfo>,
    pub calls: Vec<Call>,
    /// What layers read for the token that this comes of.
    pub reads: Vec<LayerRead>,
    pub end: Option<End>,
}

/// The end of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub reason: &'static str,
    pub usage: Usage,
}

/// A token with its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenInfo {
    pub text: String,
    pub logprob: f32,
    pub top: Vec<(String, f32)>,
    /// Where its text begins in that of the answer.
    pub start: usize,
}

impl<'a> Choice<'a> {
    pub(crate) fn new(
        text: &'a dyn Text,
        prompt: &[u32],
        options: &'a ChoiceOptions,
    ) -> Result<Self, TextError> {
        let functions = &options.functions;
        Ok(Self {
            decoder: text.decoder(prompt)?,
            stops: StopMatcher::new(options.stops.clone()),
            calls: (!functions.is_empty()).then(|| CallFinder::new(functions.clone())),
            waiting: VecDeque::new(),
            decoded: 0,
            shown: 0,
            tokens: 0,
            prompt_tokens: prompt.len(),
            text,
            options,
        })
    }

    /// What an event adds. Nothing follows a delta with an end.
    pub(crate) fn event(&mut self, event: Option<Event>) -> Result<Delta, ApiError> {
        match event {
            Some(Event::Token(token)) => self.token(token),
            Some(Event::Finished { is_stop, usage }) => {
                let text = self.decoder.finish().map_err(internal)?;
                let (mut text, is_end) = self.stops.push(&text);
                if !is_end {
                    text += &self.stops.finish();
                }
                self.end(text, is_stop || is_end, is_end, usage)
            }
            Some(Event::Failed(error)) => Err(ApiError::internal(error)),
            Some(Event::GrammarFailed(error)) => {
                let param = self.options.grammar_param.unwrap_or("response_format");
                Err(ApiError::param(param, error))
            }
            None => Err(ApiError::internal("the engine ended before the answer did")),
        }
    }

    fn token(&mut self, token: Token) -> Result<Delta, ApiError> {
        self.tokens += 1;
        // It ends the answer, which the next event says.
        if self.options.stop_ids.contains(&token.id) {
            return Ok(Delta {
                reads: token.reads,
                ..Delta::default()
            });
        }
        let text = match self.options.call_tokens.get(&token.id) {
            Some(text) => text.clone(),
            None => self.decoder.push(token.id).map_err(internal)?,
        };
        if self.options.logprobs {
            let info = self.info(&token);
            self.waiting.push_back(info);
        }
        self.decoded += text.len();
        let (text, is_end) = self.stops.push(&text);
        let reads = token.reads;
        if is_end {
            let usage = Usage {
                prompt_tokens: self.prompt_tokens,
                cached_tokens: 0,
                new_tokens: self.tokens,
            };
            let mut delta = self.end(text, true, true, usage)?;
            delta.reads = reads;
            return Ok(delta);
        }
        let text = match &mut self.calls {
            Some(calls) => calls.push(&text),
            None => text,
        };
        Ok(Delta {
            reads,
            ..self.shown(text)
        })
    }

    /// `is_cut` where text behind this one is left out.
    fn end(
        &mut self,
        text: String,
        is_stop: bool,
        is_cut: bool,
        usage: Usage,
    ) -> Result<Delta, ApiError> {
        let (mut text, mut calls) = (text, Vec::new());
        if let Some(finder) = &mut self.calls {
            text = finder.push(&text);
            let (rest, found) = finder.finish();
            text += &rest;
            calls = found;
        }
        let mut delta = self.shown(text);
        if !is_cut {
            delta.logprobs.extend(self.waiting.drain(..));
        }
        delta.end = Some(End {
            reason: match (calls.is_empty(), is_stop) {
                (false, _) => "tool_calls",
                (true, true) => "stop",
                (true, false) => "length",
            },
            usage,
        });
        delta.calls = calls;
        Ok(delta)
    }

    /// Gives text out, with the tokens that begin in it.
    fn shown(&mut self, text: String) -> Delta {
        self.shown += text.len();
        let mut delta = Delta {
            text,
            ..Delta::default()
        };
        while let Some(info) = self.waiting.front() {
            if info.start >= self.shown {
                break;
            }
            delta.logprobs.extend(self.waiting.pop_front());
        }
        delta
    }

    fn info(&self, token: &Token) -> TokenInfo {
        // JSON has no infinity; OpenAI writes this number for it.
        let finite = |logprob: f32| logprob.max(-9999.0);
        let top = token.top.iter();
        let top = top.map(|(id, logprob)| (self.text.piece(*id), finite(*logprob)));
        TokenInfo {
            text: self.text.piece(token.id),
            logprob: finite(token.logprob.unwrap_or(f32::NEG_INFINITY)),
            top: top.collect(),
            start: self.decoded,
        }
    }
}

fn internal(error: TextError) -> ApiError {
    ApiError::internal(error.to_string())
}
