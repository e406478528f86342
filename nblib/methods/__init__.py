"""Methods of anomaly detection, a file each; all of them by name: `catalogue.METHODS`."""
