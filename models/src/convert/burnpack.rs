use std::path::{Path, PathBuf};

use burn::store::burn_pack::{Tensor, Writer};

use super::ConvertError;

const FILE: &str = "model.bpk";

/// Writes one file of Burn's own format.
pub(super) fn write(folder: &Path, tensors: Vec<Tensor>) -> Result<Vec<PathBuf>, ConvertError> {
    let path = folder.join(FILE);
    let writer = Writer::new(tensors).with_metadata("names", "Hugging Face");
    match writer.overwrite(false).write_to_file_in_place(&path) {
        Ok(()) => Ok(vec![FILE.into()]),
        Err(error) => Err(ConvertError::Weights {
            path,
            problem: error.to_string(),
        }),
    }
}
