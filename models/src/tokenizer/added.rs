use tokenizers::{
    PostProcessorWrapper, Tokenizer,
    processors::{sequence::Sequence, template::TemplateProcessing},
};

/// Has a tokenizer put tokens before and behind a text, after what it did with texts so far.
pub(crate) fn add(
    tokenizer: &mut Tokenizer,
    before: Option<(String, u32)>,
    behind: Option<(String, u32)>,
) -> tokenizers::Result<()> {
    let tokens = before.iter().chain(&behind).cloned().collect::<Vec<_>>();
    if tokens.is_empty() {
        return Ok(());
    }
    let text = |sequence: &str| {
        let before = before.iter().map(|(token, _)| token.clone());
        let behind = behind.iter().map(|(token, _)| token.clone());
        let pieces = before.chain([sequence.to_owned()]).chain(behind);
        pieces.collect::<Vec<_>>()
    };
    let template = TemplateProcessing::builder()
        .try_single(text("$A"))?
        .try_pair([text("$A"), text("$B:1")].concat())?
        .special_tokens(tokens)
        .build()?;
    let template = PostProcessorWrapper::from(template);
    let processor = match tokenizer.get_post_processor() {
        None => template,
        Some(other) => Sequence::new(vec![other.clone(), template]).into(),
    };
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}
