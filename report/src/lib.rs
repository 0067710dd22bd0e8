#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]

pub mod commit;
pub mod count;
pub mod file;
pub mod memory;
#[cfg(feature = "plot")]
pub mod plot;
pub mod table;
