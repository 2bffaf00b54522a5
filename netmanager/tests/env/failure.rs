//! Steps that fail are taken back: everything is then as it was.

use std::io;

use netmanager::env::{EnvConfig, Overlay};

use crate::host::*;

fn failing_at(step: usize, config: &EnvConfig) -> anyhow::Result<Overlay> {
    let mut taken = 0;
    Overlay::up_with(config.clone(), &mut |_| {
        taken += 1;
        if taken > step {
            return Err(io::Error::other("injected"));
        }
        Ok(())
    })
}

#[test]
fn every_step_of_the_first_start() {
    let mut config = config();
    config.egress = true;
    config.instances[0] = instance(0, &["8080:80/tcp"]);
    let name = config.name.clone();
    on_host(&[&name], || {
        let _outside = Outside::new();
        let before = snapshot(&[&name]);
        let steps = Overlay::plan(&config).unwrap().steps.len();
        assert!(steps > 80, "{steps}");
        for step in 0..steps {
            let error = failing_at(step, &config).unwrap_err();
            assert_eq!(error.root_cause().to_string(), "injected");
            assert_eq!(
                difference(&before, &snapshot(&[&name])),
                "",
                "after step {step}: {error}"
            );
        }
        drop(failing_at(steps, &config).unwrap());
        Overlay::down(&name).unwrap();
        assert_eq!(difference(&before, &snapshot(&[&name])), "");
    });
}

#[test]
fn every_step_of_a_change() {
    let mut config = config();
    config.egress = true;
    let name = config.name.clone();
    on_host(&[&name], || {
        let _outside = Outside::new();
        drop(Overlay::up(config.clone()).unwrap());
        // An instance comes, its address was another's, which gets a new one.
        let mut changed = config.clone();
        changed.egress = false;
        changed.instances[1].instance_ip = instance_ip(5);
        changed.instances.push(instance(2, &["8080:80/tcp"]));
        changed.instances[2].instance_ip = instance_ip(1);
        let look = || {
            let overlay = snapshot_inside(&name);
            let instance = in_instance(&name, 1, || run("ip", &["-o", "addr", "show"]));
            [snapshot(&[&name]), overlay, vec![instance]].concat()
        };
        let before = look();
        let steps = Overlay::plan(&changed).unwrap().steps.len();
        assert!(steps > 20, "{steps}");
        for step in 0..steps {
            let error = failing_at(step, &changed).unwrap_err();
            assert_eq!(error.root_cause().to_string(), "injected");
            assert_eq!(
                difference(&before, &look()),
                "",
                "after step {step}: {error}"
            );
        }
        drop(failing_at(steps, &changed).unwrap());
        assert_ne!(look(), before);
    });
}

#[test]
fn a_foreign_device_is_left_alone() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        // A device of somebody else has the name that the host's end should get.
        let device = netmanager::env::config::host_device(&name);
        run("ip", &["link", "add", &device, "type", "veth"]);
        let before = snapshot(&[&name]);
        let error = format!("{:#}", Overlay::up(config.clone()).unwrap_err());
        assert!(error.contains("could not make   veth up0"), "{error}");
        assert_eq!(difference(&before, &snapshot(&[&name])), "");
    });
}
