//! A checkpoint on this machine as a model that is ready to run.
//!
//! [`LocalModel::open`] reads what there is beside the weights, [`LocalModelBuilder::load`] the
//! weights; a [`Session`](crate::session::Session) is one conversation with the model.

mod builder;
mod model;

pub use builder::LocalModelBuilder;
pub use model::LocalModel;
