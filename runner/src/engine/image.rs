//! What an engine needs to know of its service's image.

use super::error::EngineError;
use super::lend::EngineConfig;
use super::unpack;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, ImageInspect};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptions,
};
use futures_util::StreamExt;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// An image of the host's Docker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceImage {
    /// `sha256:…`.
    pub(super) id: String,
    /// Its layers on disk, the topmost first.
    pub(super) layers: Vec<PathBuf>,
    /// `KEY=value`.
    pub(super) environment: Vec<String>,
    /// Docker's word for its architecture.
    pub(super) arch: String,
    /// Major version of the engine in it.
    pub(super) major: u32,
}

/// Engine versions of images that do not say theirs, by image id; on disk, because asking takes half a second.
pub(super) struct Versions {
    file: PathBuf,
    known: Mutex<BTreeMap<String, u32>>,
}

impl Versions {
    /// What is known in `file`; nothing, when there is none or it is no such file.
    pub(super) fn open(file: PathBuf) -> Versions {
        let known = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Versions { file, known: Mutex::new(known) }
    }

    fn get(&self, image: &str) -> Option<u32> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(image).copied()
    }

    /// Remembers; on disk as well as it can be done.
    fn set(&self, image: &str, major: u32) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(image.to_owned(), major);
        // A node sees few images; what is older can be asked again.
        while known.len() > 500 {
            known.pop_first();
        }
        let draft = self.file.with_extension("new");
        let written = serde_json::to_vec(&*known)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&draft, text))
            .and_then(|()| std::fs::rename(&draft, &self.file));
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "versions of engines cannot be remembered");
        }
    }
}

impl ServiceImage {
    /// Looks at `reference`, which was pulled before. Where the host's Docker has no folders of its layers, or is not
    /// to be asked for them, the image is unpacked into the lender's folder.
    pub(super) async fn inspect(
        docker: &Docker,
        reference: &str,
        config: &EngineConfig,
        versions: &Versions,
    ) -> Result<ServiceImage, EngineError> {
        let labels = &config.labels;
        let found = docker.inspect_image(reference).await.map_err(|source| EngineError::Docker {
            doing: "look at the service's image",
            what: reference.to_owned(),
            source,
        })?;
        let layers = layers(&found).filter(|_| !config.unpack_images);
        let environment = found.config.and_then(|config| config.env).unwrap_or_default();
        let id = found.id.unwrap_or_default();
        let known = environment
            .iter()
            .find_map(|entry| entry.strip_prefix("DOCKER_VERSION="))
            .and_then(major)
            .or_else(|| versions.get(&id));
        let major = match known {
            Some(major) => major,
            None => {
                let major = ask(docker, reference, labels).await?;
                versions.set(&id, major);
                major
            }
        };
        let layers = match layers {
            Some(layers) => layers,
            None => vec![unpack::unpacked(docker, reference, &id, &config.folder, labels).await?],
        };
        let arch = found.architecture.filter(|a| !a.is_empty()).unwrap_or_else(|| "amd64".into());
        Ok(ServiceImage { id, layers, environment, arch, major })
    }
}

/// Folders of the image's layers; only the host's overlay2 store has them.
fn layers(image: &ImageInspect) -> Option<Vec<PathBuf>> {
    let driver = image.graph_driver.as_ref().filter(|driver| driver.name == "overlay2")?;
    let upper = driver.data.get("UpperDir").map(PathBuf::from);
    let lower = driver.data.get("LowerDir").map(String::as_str).unwrap_or_default();
    let layers: Vec<PathBuf> =
        upper.into_iter().chain(lower.split(':').filter(|s| !s.is_empty()).map(PathBuf::from)).collect();
    (!layers.is_empty()).then_some(layers)
}

/// `26` of `26.1.5+dfsg1`.
fn major(version: &str) -> Option<u32> {
    version.trim().split('.').next()?.parse().ok()
}

/// Runs `dockerd --version` in a container that has nothing: about half a second, once an image.
async fn ask(docker: &Docker, reference: &str, labels: &HashMap<String, String>) -> Result<u32, EngineError> {
    let failed = |source| EngineError::Docker { doing: "ask for the engine's version", what: reference.into(), source };
    let body = ContainerCreateBody {
        image: Some(reference.to_owned()),
        entrypoint: Some(vec!["dockerd".into(), "--version".into()]),
        cmd: Some(Vec::new()),
        network_disabled: Some(true),
        labels: Some(labels.clone()),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().build();
    let container = docker.create_container(Some(options), body).await.map_err(failed)?.id;
    let said = async {
        docker.start_container(&container, None).await?;
        let mut wait = docker.wait_container(&container, None::<WaitContainerOptions>);
        // An exit code other than 0 comes as an error; what it printed decides.
        let _ = wait.next().await;
        let options = LogsOptionsBuilder::default().stdout(true).build();
        let mut log = docker.logs(&container, Some(options));
        let mut text = String::new();
        while let Some(chunk) = log.next().await {
            text.push_str(&chunk?.to_string());
            if text.len() > 1000 {
                break;
            }
        }
        Ok(text)
    }
    .await;
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let _ = docker.remove_container(&container, Some(options)).await;
    let said = said.map_err(failed)?;
    // "Docker version 26.1.5+dfsg1, build 411e817"
    said.split("version ").nth(1).and_then(major).ok_or_else(|| EngineError::Unfit {
        image: reference.to_owned(),
        why: format!("its dockerd does not tell its version: {said:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::DriverData;

    fn image(name: &str, data: &[(&str, &str)]) -> ImageInspect {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ImageInspect { graph_driver: Some(DriverData { name: name.into(), data }), ..ImageInspect::default() }
    }

    #[test]
    fn layers_are_topmost_first() {
        let found = layers(&image("overlay2", &[("UpperDir", "/c"), ("LowerDir", "/b:/a")])).unwrap();
        assert_eq!(found, ["/c", "/b", "/a"].map(PathBuf::from));
        assert_eq!(layers(&image("overlay2", &[("UpperDir", "/c")])).unwrap().len(), 1);
    }

    #[test]
    fn host_with_another_store_has_no_folders_of_layers() {
        assert_eq!(layers(&image("overlayfs", &[("UpperDir", "/c")])), None);
        assert_eq!(layers(&image("overlay2", &[])), None);
    }

    #[test]
    fn versions_are_remembered_and_a_spoiled_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".versions.json");
        Versions::open(file.clone()).set("sha256:a", 26);
        assert_eq!(Versions::open(file.clone()).get("sha256:a"), Some(26));
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Versions::open(file).get("sha256:a"), None);
    }

    #[test]
    fn version_forms() {
        assert_eq!(major("26.1.5+dfsg1, build 411e817"), Some(26));
        assert_eq!(major("dev"), None);
    }
}
