use std::fmt;

/// A model on the hub: `org/name`, `org/name@revision`, `org/name:Q4_K_M`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubName {
    /// Organisation and name.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// Which of the GGUF files, by a part of its name.
    pub quantization: Option<String>,
}

impl HubName {
    /// The revision where none is named.
    const MAIN: &str = "main";

    /// Nothing where the text is no name that the hub allows.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (text, quantization) = match text.rsplit_once(':') {
            Some((text, quantization)) => (text, Some(quantization)),
            None => (text, None),
        };
        let (repository, revision) = text.split_once('@').unwrap_or((text, Self::MAIN));
        let (organisation, name) = repository.split_once('/')?;
        let is_part = |part: &str| {
            let letters = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let ends = part.starts_with(['.', '-']) || part.ends_with(['.', '-']);
            !part.is_empty() && part.chars().all(letters) && !part.contains("..") && !ends
        };
        let is_revision = revision.split('/').all(is_part);
        let parts = [Some(organisation), Some(name), quantization];
        (is_revision && parts.into_iter().flatten().all(is_part)).then(|| Self {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            quantization: quantization.map(str::to_owned),
        })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != Self::MAIN {
            write!(f, "@{}", self.revision)?;
        }
        match &self.quantization {
            Some(quantization) => write!(f, ":{quantization}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_revision_and_a_quantization() {
        for (text, repository, revision, quantization) in [
            ("org/Model-8B.v0.3", "org/Model-8B.v0.3", "main", None),
            ("org/name@refs/pr/1", "org/name", "refs/pr/1", None),
            ("org/name:Q4_K_M", "org/name", "main", Some("Q4_K_M")),
            ("org/name@v1.0:Q8_0", "org/name", "v1.0", Some("Q8_0")),
        ] {
            let name = HubName::parse(text).unwrap();
            assert_eq!(name.repository, repository);
            assert_eq!(name.revision, revision);
            assert_eq!(name.quantization.as_deref(), quantization);
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn paths_are_no_names() {
        for path in [
            "name",
            "./org/name",
            "../name",
            "/org/name",
            "org/name/more",
            "org/",
            "/name",
            "C:\\a/b",
            "org/na me",
            "org/name@",
            "org/name:",
            "org/..",
            "org/name@../x",
            "",
        ] {
            assert_eq!(HubName::parse(path), None, "{path}");
        }
    }
}
