use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What the environment says about the hub, in the variables of `huggingface_hub`.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where models are kept.
    pub cache: PathBuf,
    /// The hub's address.
    pub endpoint: String,
    /// Who asks.
    pub token: Option<String>,
    /// Whether the hub may not be asked.
    pub offline: bool,
}

impl Settings {
    /// Reads the environment.
    pub(crate) fn from_env() -> Self {
        Self::new(&|name| env::var(name).ok(), env::home_dir().as_deref())
    }

    fn new(variable: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Self {
        let path = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty())?;
            Some(match (value.strip_prefix("~/"), home) {
                (Some(rest), Some(home)) => home.join(rest),
                _ => PathBuf::from(&value),
            })
        };
        let caches = path("XDG_CACHE_HOME");
        let caches = caches.unwrap_or_else(|| home.unwrap_or(Path::new("")).join(".cache"));
        let hugging_face = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hugging_face.join("token"));
        let token = variable("HF_TOKEN")
            .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| fs::read_to_string(token_file).ok());
        let token = token.map(|token| token.trim().to_owned());
        let endpoint = variable("HF_ENDPOINT").filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".into());
        let is_set = |name| {
            let value = variable(name).unwrap_or_default().to_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        Self {
            cache: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| hugging_face.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()),
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::new(&variable, Some(Path::new("/home/me")))
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        for (variables, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
            (&[("HF_HOME", "~/hf")], "/home/me/hf/hub"),
            (
                &[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/models")],
                "/models",
            ),
        ] {
            assert_eq!(settings(variables).cache, Path::new(cache));
        }
    }

    #[test]
    fn a_token_is_in_the_environment_or_in_its_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "of the file\n").unwrap();
        let home = ("HF_HOME", dir.path().to_str().unwrap());
        assert_eq!(settings(&[home]).token.as_deref(), Some("of the file"));
        let both = settings(&[home, ("HF_TOKEN", "mine")]);
        assert_eq!(both.token.as_deref(), Some("mine"));
        assert_eq!(settings(&[("HF_TOKEN", " ")]).token, None);
    }

    #[test]
    fn the_hub_can_be_another_one_or_none() {
        let default = settings(&[]);
        assert_eq!(default.endpoint, "https://huggingface.co");
        assert!(!default.offline);
        let other = settings(&[
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "true"),
        ]);
        assert_eq!(other.endpoint, "http://mirror");
        assert!(other.offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).offline);
    }
}
