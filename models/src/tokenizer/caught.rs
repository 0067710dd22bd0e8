use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a closure of the `tokenizers` crate gives; an error where it panics, as it does on some
/// files that make no sense.
pub(crate) fn caught<T>(closure: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    // A tokenizer is not changed by what runs here, so nothing is left half done.
    match catch_unwind(AssertUnwindSafe(closure)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "no message".into());
            Err(format!("the tokenizer makes no sense: {}", text.replace('\n', " ")).into())
        }
    }
}
