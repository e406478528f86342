"""Medical anomaly detection with generative adversarial networks, for notebooks.

The data's way through the package, in order:

    dicom        a DICOM file -> one 8-bit image, and nothing of its header that names anybody
    images       a file -> one 8-bit image, whatever Pillow reads, or DICOM
    folders      any folder of images, or a table of them -> a set in the one layout
    downloads    public sets as they are downloaded -> sets in the one layout
    datasets     a set -> Dataset: checked, one uint8 array, cached by content
    split        the lists of images by part and label, data.json
    labels       Dataset -> Labels: the wall stands here, nothing that trains may import it
    parts        images as training is handed them, without a label
    phantom      the set that the project draws itself
    pseudo       known normals -> pseudo-anomalous images
    batches      Dataset, seed, step -> Batch(normal, unlabeled, pseudo), on the device
    layers       conv blocks, residual blocks, DCGAN, gates, cut and paste, critic
    encodings    what a feature map is told about places
    losses       cross entropies, gradient penalty, focus: each an equation
    methods      the contract, one file a method, all of them in `catalogue`
    budgets      smoke, quick, laptop, thesis: overrides of constructor arguments
    training     fit: the only loop
    runs         the folder of one run: written whole or not at all
    scoring      a finished run and any images -> score, percentile, decision
    metrics      scores, labels -> AUC, AP, sensitivity, intervals; maps, masks -> localisation
    shortcuts    what of a set can be told without looking at a lesion
    probes       a trained method, with one thing in it changed by hand
    report       many runs -> one table -> .csv .md .tex
    verdicts     two methods on the same images -> difference, test, equivalence, answer
    robustness   moved images, kinds of lesions, anomaly ratios
    costs        parameters, operations, memory, time
    figures      everything that is drawn
    panels       pictures and small widgets that the explorer is built of
    explore      widgets: finished runs to look into, a training to watch

Beside it: files (where things are, written whole), progress, notebooks (papermill, batch reruns).
"""

__version__ = "0.1.0"
