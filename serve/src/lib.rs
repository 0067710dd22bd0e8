//! An HTTP server with OpenAI's interface over an engine that works on many sequences at once.
//!
//! The server knows HTTP and text. What computes is behind [`Backend`], tokenizer and chat template are behind
//! [`Text`]; `quest serve` puts the engine and a checkpoint there, tests a script.
//!
//! Types of requests and answers are written here and not taken from a crate of OpenAI's types: those pass
//! over fields that they do not know, and a server that refuses what it does not support has to name them.

mod answer;
mod backend;
mod body;
mod config;
mod error;
mod form;
mod generate;
mod grammar;
mod handlers;
mod metrics;
mod openapi;
mod request;
mod response;
mod schema;
mod server;
mod state;
mod text;

pub use backend::{
    Answer, Backend, Event, Generate, LayerRead, Policy, Sampling, Stats, SubmitError, Token, Usage,
};
pub use config::{Limits, ModelInfo, ServerConfig};
pub use grammar::{CalledFunction, Calls, CompiledGrammar, Grammar};
pub use server::Server;
pub use text::{Conversation, Decoder, Text, TextError};
