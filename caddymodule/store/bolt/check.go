package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"io"
	"math"
	"os"
	"time"
)

// How much of a file check reads, from the roots of the trees downwards.
const (
	quickBudget = 256 << 20 // takes well under a second, and covers most stores completely
	noLimit     = math.MaxInt64
)

// bbolt's file format (version 2, in the machine's byte order).
const (
	pageHeader = 16 // id 8, flags 2, count 2, overflow 4
	elemSize   = 16 // leaf: flags 4, pos 4, ksize 4, vsize 4; branch: pos 4, ksize 4, page 8
	metaSize   = 64
	minPage    = 1024

	branchPage   = 1
	leafPage     = 2
	freelistPage = 16

	magic      = 0xED0CDAED
	version    = 2
	noFreelist = math.MaxUint64
)

var native = binary.NativeEndian

// meta is one of the two meta pages, which locate the trees of a file.
type meta struct{ pageSize, root, freelist, pages, txid uint64 }

// check reads up to budget bytes of a bbolt file, page by page as plain bytes. It returns a
// *corruption if bbolt would misread the file, or if a record has a wrong checksum. metas is the
// number of valid meta pages.
//
// bbolt trusts its mapping: one flipped bit in an offset makes it read beyond the mapping. Its own
// Tx.Check does so in a goroutine, where the fault can't be recovered and ends the process.
func check(f *os.File, budget int64) (metas int, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	h, metas, err := readMetas(f, info.Size())
	if err != nil {
		return metas, err
	}
	if uint64(info.Size())/h.pageSize < h.pages {
		return metas, corruptf("it is cut short: %d bytes of %d", info.Size(), h.pages*h.pageSize)
	}
	c := &checker{file: f, meta: h, used: make([]uint64, h.pages/64+1)}
	free, err := c.freelist()
	if err != nil {
		return metas, err
	}
	whole, err := c.walk(budget)
	if err != nil || !whole || h.freelist == noFreelist {
		return metas, err
	}
	return metas, c.accountPages(free)
}

// Check reads the whole file of a store that isn't open, or a copy of one, and returns its size.
// ErrCorrupt: it is damaged. ErrHeld: it is open; check a backup instead.
func Check(path string) (size int64, err error) {
	f, err := openLocked(path, time.Second)
	if err == nil {
		defer f.Close()
		_, err = check(f, noLimit)
	}
	if err != nil {
		return 0, describe(path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// accountPages checks that each page is either in use or free. A page that is neither was part of
// a tree: a damaged root may have lost a whole bucket.
func (c *checker) accountPages(free []uint64) error {
	for _, id := range free {
		if c.used[id/64]&(1<<(id%64)) != 0 {
			return corruptf("page %d is in use and free", id)
		}
		c.used[id/64] |= 1 << (id % 64)
	}
	for id := uint64(2); id < c.meta.pages; id++ {
		if c.used[id/64]&(1<<(id%64)) == 0 {
			return corruptf("page %d is neither in use nor free", id)
		}
	}
	return nil
}

// readMetas returns the newer of the valid meta pages, and their number.
func readMetas(f io.ReaderAt, size int64) (h meta, whole int, err error) {
	if size == 0 {
		return h, 0, corruptf("it is empty")
	}
	first, ok := readMeta(f, 0)
	if ok {
		h, whole = first, 1
	}
	// The second one follows after one page, whose size only a meta page contains.
	for at := int64(minPage); at <= minPage<<14; at *= 2 {
		second, ok := readMeta(f, at)
		if !ok || second.pageSize != uint64(at) || whole == 1 && first.pageSize != uint64(at) {
			continue
		}
		if whole++; whole == 1 || second.txid > h.txid {
			h = second
		}
		break
	}
	switch {
	case whole == 0:
		return h, 0, corruptf("both its meta pages are damaged, or it never was a store")
	case h.pageSize < minPage || h.pageSize > minPage<<14 || h.pageSize&(h.pageSize-1) != 0:
		return h, whole, corruptf("a page size of %d", h.pageSize)
	}
	return h, whole, nil
}

// readMeta reads the meta page at an offset; ok is false if it is invalid.
func readMeta(f io.ReaderAt, at int64) (h meta, ok bool) {
	b := make([]byte, metaSize)
	if _, err := f.ReadAt(b, at+pageHeader); err != nil {
		return h, false
	}
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if native.Uint32(b) != magic || native.Uint32(b[4:]) != version || native.Uint64(b[56:]) != sum.Sum64() {
		return h, false
	}
	return meta{
		pageSize: uint64(native.Uint32(b[8:])),
		root:     native.Uint64(b[16:]),
		freelist: native.Uint64(b[32:]),
		pages:    native.Uint64(b[40:]),
		txid:     native.Uint64(b[48:]),
	}, true
}

// checker checks one file.
type checker struct {
	file io.ReaderAt
	meta meta
	used []uint64 // a bit for each page read
	read int64    // bytes read so far
}

// page returns a page with its overflow pages, its flags and its count. It returns an error if a
// page is used twice.
func (c *checker) page(id uint64) (p []byte, flags, count uint16, err error) {
	if id < 2 || id >= c.meta.pages {
		return nil, 0, 0, corruptf("page %d is none of its %d", id, c.meta.pages)
	}
	p = make([]byte, c.meta.pageSize)
	if _, err = c.file.ReadAt(p, int64(id*c.meta.pageSize)); err != nil {
		return nil, 0, 0, corruptf("page %d: %v", id, err)
	}
	flags, count = native.Uint16(p[8:]), native.Uint16(p[10:])
	further := uint64(native.Uint32(p[12:]))
	if native.Uint64(p) != id || id+further >= c.meta.pages {
		return nil, 0, 0, corruptf("page %d is not what it was", id)
	}
	for n := id; n <= id+further; n++ {
		if c.used[n/64]&(1<<(n%64)) != 0 {
			return nil, 0, 0, corruptf("page %d is used twice", n)
		}
		c.used[n/64] |= 1 << (n % 64)
	}
	if further > 0 {
		p = append(p, make([]byte, further*c.meta.pageSize)...)
		if _, err = c.file.ReadAt(p[c.meta.pageSize:], int64((id+1)*c.meta.pageSize)); err != nil {
			return nil, 0, 0, corruptf("page %d: %v", id, err)
		}
	}
	c.read += int64(len(p))
	return p, flags, count, nil
}

// freelist returns the free pages.
func (c *checker) freelist() ([]uint64, error) {
	if c.meta.freelist == noFreelist {
		return nil, nil
	}
	p, flags, count, err := c.page(c.meta.freelist)
	if err != nil {
		return nil, err
	}
	n, list := uint64(count), p[pageHeader:]
	if count == math.MaxUint16 { // then the first entry is the count
		n, list = native.Uint64(list), list[8:]
	}
	if flags != freelistPage || n > uint64(len(list)/8) {
		return nil, corruptf("page %d is no list of free pages", c.meta.freelist)
	}
	free := make([]uint64, n)
	for i := range free {
		free[i] = native.Uint64(list[8*i:])
		if free[i] < 2 || free[i] >= c.meta.pages || i > 0 && free[i] <= free[i-1] {
			return nil, corruptf("the list of free pages names %d", free[i])
		}
	}
	return free, nil
}

// visit is a page to read, with the keys that its place in the tree allows.
type visit struct {
	page      uint64
	low, high []byte   // low <= key < high; nil: any
	path      []string // names of the buckets above it
}

// walk reads the trees level by level, so that a limited budget covers the most important pages.
// whole reports whether it read everything.
func (c *checker) walk(budget int64) (whole bool, err error) {
	for todo := []visit{{page: c.meta.root}}; len(todo) > 0; {
		if c.read >= budget {
			return false, nil
		}
		v := todo[0]
		p, flags, count, err := c.page(v.page)
		if err != nil {
			return false, err
		}
		next, err := c.node(v, p, flags, count)
		if err != nil {
			return false, err
		}
		todo = append(todo[1:], next...)
	}
	return true, nil
}

// node checks one page of a tree and returns the pages below it.
func (c *checker) node(v visit, p []byte, flags, count uint16) (below []visit, err error) {
	list, err := elements(p, flags, count)
	if err != nil {
		return nil, corruptf("page %d: %v", v.page, err)
	}
	if flags == branchPage && len(list) == 0 {
		return nil, corruptf("page %d: a branch without leaves", v.page)
	}
	if len(list) > 0 && bytes.Compare(list[0].key, v.low) < 0 || len(list) > 0 && v.high != nil && bytes.Compare(list[len(list)-1].key, v.high) >= 0 {
		return nil, corruptf("page %d: keys in the wrong place", v.page)
	}
	for i, e := range list {
		switch {
		case flags == branchPage:
			child := visit{page: e.page, low: e.key, high: v.high, path: v.path}
			if i+1 < len(list) {
				child.high = list[i+1].key
			}
			below = append(below, child)
		case e.bucket:
			root, err := bucket(append(v.path[:len(v.path):len(v.path)], string(e.key)), e.value)
			if err != nil {
				return nil, corruptf("page %d: %v", v.page, err)
			}
			if root != nil {
				below = append(below, *root)
			}
		default:
			if err := checkRecord(v.path, e.key, e.value); err != nil {
				return nil, corruptf("page %d: %v", v.page, err)
			}
		}
	}
	return below, nil
}

// bucket returns the root of a bucket. If the bucket is small enough to be stored inline, bucket
// checks it and returns nil.
func bucket(path []string, value []byte) (*visit, error) {
	const header = 16 // root page 8, sequence 8
	if len(value) < header {
		return nil, corruptf("a bucket without a root")
	}
	if root := native.Uint64(value); root != 0 {
		return &visit{page: root, path: path}, nil
	}
	p := value[header:]
	if len(p) < pageHeader || native.Uint16(p[8:]) != leafPage {
		return nil, corruptf("a bucket without a page")
	}
	list, err := elements(p, leafPage, native.Uint16(p[10:]))
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if e.bucket {
			return nil, corruptf("a bucket where none can be")
		}
		if err := checkRecord(path, e.key, e.value); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// element is an entry of a leaf page or, with page set, of a branch page.
type element struct {
	key, value []byte // within the page
	page       uint64
	bucket     bool
}

// elements returns the entries of a page. bbolt writes keys in order, and keys and values without
// gaps behind the table; anything else is damage.
func elements(p []byte, flags, count uint16) ([]element, error) {
	if flags != branchPage && flags != leafPage {
		return nil, corruptf("neither a branch nor a leaf")
	}
	at := uint64(pageHeader) + elemSize*uint64(count)
	if at > uint64(len(p)) {
		return nil, corruptf("more entries than have room")
	}
	if count == 0 && len(bytes.TrimLeft(p[at:], "\x00")) > 0 {
		return nil, corruptf("no entries, but what they held")
	}
	list := make([]element, count)
	for i := range list {
		e, start := &list[i], uint64(pageHeader+elemSize*i)
		b := p[start:]
		var pos, ksize, vsize uint64
		if flags == branchPage {
			pos, ksize, e.page = uint64(native.Uint32(b)), uint64(native.Uint32(b[4:])), native.Uint64(b[8:])
		} else {
			pos, ksize, vsize = uint64(native.Uint32(b[4:])), uint64(native.Uint32(b[8:])), uint64(native.Uint32(b[12:]))
			e.bucket = native.Uint32(b) == 1
		}
		if start+pos != at || ksize == 0 || at+ksize+vsize > uint64(len(p)) || flags == leafPage && native.Uint32(b) > 1 {
			return nil, corruptf("entry %d is not what it was", i)
		}
		e.key, e.value = p[at:at+ksize], p[at+ksize:at+ksize+vsize]
		at += ksize + vsize
		if i > 0 && bytes.Compare(list[i-1].key, e.key) >= 0 {
			return nil, corruptf("entry %d is out of order", i)
		}
	}
	return list, nil
}
