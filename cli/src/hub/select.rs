use super::{HubError, HubName};

/// Files other than the weights that the program reads.
const DESCRIPTIONS: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Files of a repository that are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub files: Vec<String>,
    /// The GGUF file that is the model, the first of its shards.
    pub gguf: Option<String>,
}

/// The files of a model among those of its repository: one form of the weights, and what describes
/// them.
pub(super) fn select(name: &HubName, files: &[String]) -> Result<Selection, HubError> {
    if name.quantization.is_none() {
        let weights = ["model.safetensors", "pytorch_model.bin"];
        let mut weights = weights.into_iter().map(|single| whole(single, files));
        if let Some(weights) = weights.find(|weights| !weights.is_empty()) {
            let is_description = |file: &&String| DESCRIPTIONS.contains(&file.as_str());
            let descriptions = files.iter().filter(is_description).cloned();
            return Ok(Selection {
                files: descriptions.chain(weights).collect(),
                gguf: None,
            });
        }
    }
    gguf(name, files)
}

/// The weights in one file of this name, or in shards with an index.
fn whole(single: &str, files: &[String]) -> Vec<String> {
    if files.iter().any(|file| file == single) {
        return vec![single.to_owned()];
    }
    let index = format!("{single}.index.json");
    if !files.contains(&index) {
        return Vec::new();
    }
    let (stem, extension) = single.rsplit_once('.').unwrap_or((single, ""));
    let start = format!("{stem}-");
    let is_shard = |file: &&String| {
        let middle = file.strip_prefix(&start);
        middle.is_some_and(|rest| rest.ends_with(extension) && rest.contains("-of-"))
    };
    let shards = files.iter().filter(is_shard).cloned();
    [index].into_iter().chain(shards).collect()
}

fn gguf(name: &HubName, files: &[String]) -> Result<Selection, HubError> {
    let models = files.iter().filter(|file| {
        let base = file.rsplit('/').next().unwrap_or(file);
        base.to_lowercase().ends_with(".gguf") && !base.starts_with("mmproj")
    });
    let models = models.cloned().collect::<Vec<_>>();
    if models.is_empty() {
        return Err(HubError::NoWeights {
            name: name.to_string(),
            found: list(files),
        });
    }
    let wanted = models.iter().filter(|file| match &name.quantization {
        // Whole words: Q4_K is not meant by Q4_K_M, nor the other way round.
        Some(quantization) => {
            let (file, wanted) = (file.to_lowercase(), quantization.to_lowercase());
            let mut at = file.match_indices(&wanted);
            at.any(|(at, _)| {
                let is_end = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
                is_end(file[..at].chars().next_back())
                    && is_end(file[at + wanted.len()..].chars().next())
            })
        }
        None => true,
    });
    let mut wanted = wanted.cloned().collect::<Vec<_>>();
    wanted.sort();
    let mut stems = wanted.iter().map(|file| stem(file)).collect::<Vec<_>>();
    stems.dedup();
    if stems.len() != 1 {
        return Err(HubError::Quantization {
            name: name.to_string(),
            repository: name.repository.clone(),
            found: list(&models),
        });
    }
    Ok(Selection {
        gguf: wanted.first().cloned(),
        files: wanted,
    })
}

/// The name of a GGUF file without the number of its shard: `model-00001-of-00003.gguf`.
fn stem(file: &str) -> &str {
    let whole = &file[..file.len() - ".gguf".len()];
    let shard = whole.rsplit_once("-of-").and_then(|(start, count)| {
        let (stem, number) = start.rsplit_once('-')?;
        let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        (digits(number) && digits(count)).then_some(stem)
    });
    shard.unwrap_or(whole)
}

fn list(files: &[String]) -> String {
    const MAX: usize = 12;
    let shown = files.iter().take(MAX).map(String::as_str);
    let shown = shown.collect::<Vec<_>>().join(", ");
    match files.len() {
        0 => "none".to_owned(),
        n if n > MAX => format!("{shown} and {} more", n - MAX),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(name: &str, files: &[&str]) -> Result<Selection, String> {
        let files = files.iter().map(|file| (*file).to_owned());
        let name = HubName::parse(name).unwrap();
        select(&name, &files.collect::<Vec<_>>()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_form_of_the_weights_is_enough() {
        let files = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "model.Q4_0.gguf",
        ];
        let selection = selected("org/name", &files).unwrap();
        assert_eq!(
            selection.files,
            ["config.json", "tokenizer.json", "model.safetensors"]
        );
        assert_eq!(selection.gguf, None);
    }

    #[test]
    fn shards_come_with_their_index() {
        let files = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.00.pth",
        ];
        let selection = selected("org/name", &files).unwrap();
        assert_eq!(selection.files.len(), 4);
        assert!(!selection.files.contains(&"consolidated.00.pth".to_owned()));
    }

    #[test]
    fn a_gguf_file_is_named_by_its_quantization() {
        let files = [
            "m-Q4_K_M.gguf",
            "m-Q4_K_S.gguf",
            "m.Q8_0.gguf",
            "BF16/m-BF16-00001-of-00002.gguf",
            "BF16/m-BF16-00002-of-00002.gguf",
            "mmproj-BF16.gguf",
        ];
        let of = |quantization: &str| selected(&format!("org/name:{quantization}"), &files);
        assert_eq!(of("q4_k_m").unwrap().files, ["m-Q4_K_M.gguf"]);
        assert_eq!(of("Q8_0").unwrap().gguf.as_deref(), Some("m.Q8_0.gguf"));
        let sharded = of("BF16").unwrap();
        assert_eq!(sharded.files.len(), 2);
        assert_eq!(
            sharded.gguf.as_deref(),
            Some("BF16/m-BF16-00001-of-00002.gguf")
        );
        for unclear in ["Q4_K", "Q5_0"] {
            let error = of(unclear).unwrap_err();
            assert!(error.contains("there are m-Q4_K_M.gguf, "), "{error}");
        }
        let error = selected("org/name", &files).unwrap_err();
        assert!(error.contains("as in org/name:Q4_K_M"), "{error}");
        assert_eq!(selected("org/name", &files[..1]).unwrap().files.len(), 1);
    }

    #[test]
    fn a_repository_without_weights_is_refused() {
        let error = selected("org/name", &["config.json", "model.onnx"]).unwrap_err();
        assert!(error.ends_with("found config.json, model.onnx"), "{error}");
    }
}
