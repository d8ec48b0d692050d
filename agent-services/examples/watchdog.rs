//! Tries a real watchdog, in a guest: `watchdog DEVICE SECONDS PETS close|starve|leave`.
//!
//! Prints what the device is and took, pets it once a second, then disarms it (`close`: the machine must live on),
//! stops petting with the device open (`starve`), or ends without disarming (`leave`): in both the machine must reset.

use std::{env, path::Path, process::ExitCode, thread::sleep, time::Duration};

use agent_services::watchdog::{Beat, Pacer, Watchdog};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let (Some(device), Some(Ok(seconds)), Some(Ok(pets)), Some(end)) = (
        args.first(),
        args.get(1).map(|s| s.parse::<u64>()),
        args.get(2).map(|s| s.parse::<u64>()),
        args.get(3),
    ) else {
        eprintln!("usage: watchdog DEVICE SECONDS PETS close|starve|leave");
        return ExitCode::from(2);
    };
    let dog = match Watchdog::arm(Path::new(device), Duration::from_secs(seconds)) {
        Ok(dog) => dog,
        Err(error) => {
            println!("WATCHDOG-ERROR {error}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "WATCHDOG-ARMED {} timeout={}s nowayout={}",
        dog.identity,
        dog.timeout.as_secs(),
        dog.no_way_out
    );
    let mut pacer = Pacer::new(dog.timeout);
    for second in 0..pets {
        let now = second * 1_000_000_000;
        if pacer.beat(now, now + 1, true) == Beat::Pet {
            println!("WATCHDOG-PET {second} {:?}", dog.pet());
        }
        sleep(Duration::from_secs(1));
    }
    match end.as_str() {
        "close" => match dog.disarm() {
            Ok(()) => println!("WATCHDOG-DISARMED"),
            Err(dog) => {
                println!("WATCHDOG-NOWAYOUT");
                // Else the guest would reset, which is not what is asked for.
                loop {
                    let _ = dog.pet();
                    sleep(Duration::from_secs(1));
                }
            }
        },
        "leave" => println!("WATCHDOG-LEFT"),
        _ => {
            println!(
                "WATCHDOG-STARVING {:?}",
                pacer.beat(pets * 1_000_000_000, 0, true)
            );
            sleep(Duration::from_secs(3600));
        }
    }
    ExitCode::SUCCESS
}
