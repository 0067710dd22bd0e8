//! What operations refuse before anything is launched.

use burn::tensor::DType;

/// # Panics
///
/// When the dtypes differ.
pub fn check_dtype(what: &str, found: DType, expected: DType) {
    assert!(
        found == expected,
        "dtype of {what}: expected {expected:?}, found {found:?}"
    );
}
