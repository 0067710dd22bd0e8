#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod blocks;
#[cfg(feature = "native")]
pub mod native;
