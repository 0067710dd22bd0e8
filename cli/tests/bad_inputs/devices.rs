//! Devices that are not there.

#[cfg(all(target_os = "linux", any(feature = "cuda", feature = "wgpu")))]
use super::common::ids;
use super::{Case, common::Checkpoint};

#[test]
fn devices_that_are_not_compiled_in_name_the_feature() {
    let compiled_in = [
        ("cuda", cfg!(feature = "cuda")),
        ("rocm", cfg!(feature = "rocm")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("metal", cfg!(feature = "metal")),
        ("ndarray", cfg!(feature = "ndarray")),
    ];
    let absent = compiled_in
        .into_iter()
        .filter(|(_, is_compiled_in)| !is_compiled_in);
    for (device, _) in absent {
        let checkpoint = Checkpoint::new(&Case::default().spec);
        let output = checkpoint.run("info", &["--device", device]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(
            stderr,
            format!(
                "error: device {device} is not compiled in: build with `--features {device}`\n"
            )
        );
    }
}

#[cfg(all(target_os = "linux", any(feature = "cuda", feature = "wgpu")))]
#[test]
fn devices_without_hardware_are_an_error_and_auto_takes_the_cpu() {
    // Hides every GPU and every software one from CUDA, Vulkan and OpenGL.
    let nowhere = [
        ("CUDA_VISIBLE_DEVICES", ""),
        ("VK_DRIVER_FILES", "/nonexistent"),
        ("VK_ICD_FILENAMES", "/nonexistent"),
        ("LIBGL_DRIVERS_PATH", "/nonexistent"),
        ("__EGL_VENDOR_LIBRARY_DIRS", "/nonexistent"),
    ];
    let checkpoint = Checkpoint::new(&Case::default().spec);
    let run = |device| {
        let mut command = checkpoint.command("generate", &["--device", device]);
        let ids = checkpoint.write_ids(&ids(8, 160));
        command.args(["--max-new-tokens", "2", "--ids"]).arg(ids);
        let output = command.envs(nowhere).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for (device, is_compiled_in) in [
        ("cuda", cfg!(feature = "cuda")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("wgpu", cfg!(feature = "wgpu")),
    ] {
        if is_compiled_in {
            let expected = format!(
                "error: device {device}: expected hardware and a driver for it, found none\n"
            );
            assert_eq!(run(device), (Some(2), expected));
        }
    }
    let (code, stderr) = run("auto");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.starts_with("device: flex (no GPU found; "),
        "{stderr}"
    );
}
